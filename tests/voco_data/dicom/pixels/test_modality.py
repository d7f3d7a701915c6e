"""Stored values to HU, against values computed by hand after PS3.3 C.11.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.support.ct_files import write_slices
from voco_data.dicom.pixels.decode import FrameReader
from voco_data.dicom.pixels.modality import parse_modality_transforms
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason


def hu_of(tmp_path: Path, stored: list[int], kind: str = "<u2", **tags: Any) -> list[int]:
    (path,) = write_slices(tmp_path, np.zeros((1, 1, len(stored)), np.int16))
    dataset = pydicom.dcmread(path)
    dataset.PixelData = np.array(stored, kind).tobytes()
    dataset.PixelRepresentation = int(kind == "<i2")
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    pixels = FrameReader(dataset, (1, len(stored)))
    result: list[int] = (
        parse_modality_transforms(dataset, 1)[0].to_hu(pixels.read(0)).ravel().tolist()
    )
    return result


def test_padding_above_air_becomes_air(tmp_path: Path) -> None:
    hu = hu_of(tmp_path, [0, 1024, 4000, 1100], PixelPaddingValue=4000)
    assert hu == [-1024, 0, -1024, 76]


def test_a_value_that_is_padding_outside_is_measured_inside(tmp_path: Path) -> None:
    """Padding of 0 in signed HU: air around the field of view, water in the body."""
    plane = np.zeros((7, 7), np.int16)
    plane[1:6, 1:6] = 30
    plane[3, 3] = 0
    (path,) = write_slices(tmp_path, plane[None])
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
    dataset.PixelPaddingValue = 0
    dataset.PixelData = plane.astype("<i2").tobytes()
    hu = parse_modality_transforms(dataset, 1)[0].to_hu(FrameReader(dataset, (7, 7)).read(0))
    assert hu[3, 3] == 0
    assert (hu[0] == -1024).all()
    assert (hu[1:6, 1:6][plane[1:6, 1:6] == 30] == 30).all()


def test_a_range_of_padding(tmp_path: Path) -> None:
    tags = {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095}
    assert hu_of(tmp_path, [3999, 4000, 4050, 4095], **tags) == [2975, -1024, -1024, -1024]


def test_padding_below_air_stays_what_it_is(tmp_path: Path) -> None:
    hu = hu_of(tmp_path, [-2000, 0, 1024, 5], "<i2", PixelPaddingValue=-2000)
    assert hu == [-3024, -1024, 0, -1019]


def test_padding_whose_tag_has_the_other_sign(tmp_path: Path) -> None:
    # 63536 as unsigned is -2000 as signed; the intercept would make it 500 HU.
    tags = {"PixelPaddingValue": 63536, "RescaleIntercept": 2500}
    assert hu_of(tmp_path, [-2000, -2500], "<i2", **tags) == [-1024, 0]


def test_padding_that_no_pixel_can_have_is_none(tmp_path: Path) -> None:
    twelve = {"BitsStored": 12, "HighBit": 11}
    assert hu_of(tmp_path, [2096, 1024], PixelPaddingValue=63536, **twelve) == [1072, 0]
    tags = {"PixelPaddingValue": 0x8000, "RescaleIntercept": 0, **twelve}
    assert hu_of(tmp_path, [0, 5], "<i2", **tags) == [0, 5]
    assert hu_of(tmp_path, [0, 5], "<i2", PixelPaddingValue=None, RescaleIntercept=0) == [0, 5]


def test_thirty_two_bits_do_not_wrap(tmp_path: Path) -> None:
    tags = {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}
    assert hu_of(tmp_path, [3_000_000_000, 1024], "<u4", **tags) == [32767, 0]


def lut(values: list[int], first: int, kind: str = "HU") -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, 16]
    item.ModalityLUTType = kind
    item.LUTData = np.array(values, "<i2").view("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return Sequence([item])


def test_a_modality_lut_maps_and_clamps_at_its_ends(tmp_path: Path) -> None:
    table = lut([-1000, -500, 0, 700], first=10)
    hu = hu_of(tmp_path, [10, 11, 12, 13, 0, 99], ModalityLUTSequence=table)
    assert hu == [-1000, -500, 0, 700, -1000, 700]


def test_a_lut_to_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeriesRefused) as caught:
        hu_of(tmp_path, [1], ModalityLUTSequence=lut([1, 2], 0, "OD"))
    assert caught.value.reason == Reason.DERIVED
    table = lut([1, 2], 0)
    table[0].LUTDescriptor = [5, 0, 16]
    with pytest.raises(SeriesRefused) as caught:
        hu_of(tmp_path, [1], ModalityLUTSequence=table)
    assert caught.value.reason == Reason.UNREADABLE


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "x"])
def test_a_slope_that_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    (path,) = write_slices(tmp_path, np.zeros((1, 1, 1), np.int16))
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x00281053, "LO", value)  # as text: a file may declare any VR
    with pytest.raises(SeriesRefused):
        parse_modality_transforms(dataset, 1)
