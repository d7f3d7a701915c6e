"""Multi-frame CT gives the volume of its single frames, in files of highdicom and of scanners."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLSLossless, RLELossless, generate_uid

from tests.support.ct_files import body, write_slices
from voco_data.dicom.header import parse_frames, parse_header, read_dataset
from voco_data.dicom.pixels.decode import FrameReader
from voco_data.dicom.series.reader import read_series
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes.slice_spacing import GapPolicy
from voco_data.volumes.volume import Volume

EMPTY = (
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientBirthDate",
    "PatientSex",
    "Manufacturer",
    "SeriesNumber",
)
LEGACY_TAGS: dict[str, Any] = dict.fromkeys(EMPTY, "") | {
    "FrameOfReferenceUID": "1.2.3.4",
    "KVP": 120,
    "PatientPosition": "HFS",
}


def read(paths: list[Path]) -> Volume:
    return read_series(paths, gaps=GapPolicy(0.05), min_slices=3)


def legacy(paths: list[Path], target: Path, **options: Any) -> Path:
    """Convert single frames, in any order, with highdicom."""
    frames = [pydicom.dcmread(path) for path in paths]
    made = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        frames, generate_uid(), 1, generate_uid(), 1, **options
    )
    made.save_as(target)
    return target


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLELossless, JPEGLSLossless])
def test_a_legacy_conversion_is_its_single_frames(tmp_path: Path, syntax: str) -> None:
    paths = write_slices(tmp_path / "single", body(), tags=LEGACY_TAGS)
    shuffled = [paths[(7 * i) % 24] for i in range(24)]
    many = read([legacy(shuffled, tmp_path / "many.dcm", transfer_syntax_uid=syntax)])
    single = read(paths)
    assert np.array_equal(many.hu, single.hu)
    assert many.geometry == single.geometry
    assert many.input_digest() == single.input_digest()
    assert many.flags == ("multi_frame",)


def enhanced(folder: Path, hu: np.ndarray) -> Dataset:
    """An Enhanced CT object by hand: slope and intercept differ from frame to frame."""
    dataset = pydicom.dcmread(write_slices(folder, hu[:1])[0])
    for keyword in ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "PixelSpacing"):
        delattr(dataset, keyword)
    del dataset.ImageOrientationPatient
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.NumberOfFrames = len(hu)
    shared, measures, turn = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [2.0, 2.0]
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([turn])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups, planes = [], []
    for index, plane in enumerate(hu):
        group, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-60, -60, 5.0 * index]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024 - index, "HU"
        group.PlanePositionSequence = Sequence([position])
        group.PixelValueTransformationSequence = Sequence([values])
        groups.append(group)
        planes.append((plane.astype(np.int32) + 1024 + index).astype("<u2"))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.PixelData = np.stack(planes).tobytes()
    return dataset


def test_every_frame_has_its_own_intercept(tmp_path: Path) -> None:
    hu = body()
    dataset = enhanced(tmp_path, hu)
    dataset.save_as(tmp_path / "e.dcm")
    volume = read([tmp_path / "e.dcm"])
    assert np.array_equal(volume.hu, hu)
    assert volume.instance_numbers == tuple(range(1, 25))


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("offsets", [True, False])
def test_fragments_with_and_without_an_offset_table(
    tmp_path: Path, fragments: int, offsets: bool
) -> None:
    hu = body()[:8]
    dataset = enhanced(tmp_path, hu)
    planes = np.frombuffer(dataset.PixelData, "<u2").reshape(hu.shape)
    dataset.compress(JPEGLSLossless)
    frames = [*pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=len(planes))]
    dataset.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=offsets)
    dataset.save_as(tmp_path / "e.dcm")
    assert np.array_equal(read([tmp_path / "e.dcm"]).hu, hu)


def refusal(dataset: Dataset, path: Path) -> Reason:
    dataset.save_as(path)
    with pytest.raises(SeriesRefused) as caught:
        read([path])
    return caught.value.reason


def test_what_does_not_add_up_is_refused(tmp_path: Path) -> None:
    dataset = enhanced(tmp_path, body()[:8])
    dataset.NumberOfFrames = 7
    assert refusal(dataset, tmp_path / "a.dcm") == Reason.UNREADABLE
    dataset = enhanced(tmp_path, body()[:8])
    dataset.PixelData = dataset.PixelData[:-2]
    assert refusal(dataset, tmp_path / "b.dcm") == Reason.UNREADABLE
    dataset = enhanced(tmp_path, body()[:8])
    dataset.NumberOfFrames = 2_000_000_000
    assert refusal(dataset, tmp_path / "c.dcm") == Reason.UNREADABLE
    dataset = enhanced(tmp_path, body()[:8])
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PixelValueTransformationSequence[0].RescaleType = "Z_EFF"
    assert refusal(dataset, tmp_path / "d.dcm") == Reason.DERIVED


@pytest.mark.real_ct
def test_a_real_legacy_conversion_is_its_single_frames(real_ct: Path) -> None:
    folder = real_ct / "08_enhanced_multiframe"
    truth = {item["path"]: item for item in json.loads((real_ct / "EXPECTED.json").read_text())}
    many = read([folder / "legacy_enhanced_23x38x3.dcm"])
    single = read(sorted((folder / "same_volume_single_frames_23x38x3").iterdir()))
    assert many.input_digest() == single.input_digest()
    assert many.instance_numbers == single.instance_numbers
    digest = hashlib.sha256(many.hu.astype("<i2").tobytes()).hexdigest()
    expected = truth["08_enhanced_multiframe/legacy_enhanced_23x38x3.dcm"]
    assert digest == expected["sha256_int16_le_zyx_low_to_high"]


@pytest.mark.real_ct
def test_real_perfusion_maps_are_not_hu_but_their_frames_decode(real_ct: Path) -> None:
    folder = real_ct / "08_enhanced_multiframe"
    for name, low, high in (
        ("eCT_Supplemental.dcm", 0, 1196),
        ("CT0012.fragmented_no_bot_jpeg_baseline.51.dcm", 1010, 2223),
    ):
        dataset = read_dataset(folder / name, pixels=True)
        with pytest.raises(SeriesRefused) as caught:
            parse_header(dataset, folder / name)
        assert caught.value.reason == Reason.DERIVED
        with pytest.raises(SeriesRefused):
            parse_frames(dataset, folder / name)
        pixels = FrameReader(dataset, (512, 512), 2)
        stored = np.stack([pixels.read(0), pixels.read(1)])
        assert (stored.min(), stored.max()) == (low, high)
