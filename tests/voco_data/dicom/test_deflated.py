"""Deflated data sets are those of pydicom, and cost no more than what is read of them."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.support import bombs
from tests.support.ct_files import body, write_slices
from voco_data.dicom.header import read_dataset, transfer_syntax
from voco_data.errors import SeriesRefused

FEW_BYTES = 8 * bombs.MEBIBYTE


def deflated_slice(folder: Path, change: Callable[[Dataset], None] = lambda _: None) -> Path:
    """One slice of `ct_files`, with a name in Cyrillic letters and a nested sequence."""
    (path,) = write_slices(folder, body()[:1])
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.SpecificCharacterSet, dataset.PatientID = "ISO_IR 144", "Иванов"
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, outer.PurposeOfReferenceCodeSequence = "7", Sequence([inner])
    dataset.SourceImageSequence = Sequence([outer])
    dataset["SourceImageSequence"].is_undefined_length = True
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


def split(path: Path) -> tuple[bytes, bytes]:
    """The bytes of a file before its deflated data set, and that data set inflated."""
    data = path.read_bytes()
    end = 144 + int.from_bytes(data[140:144], "little")
    return data[:end], zlib.decompress(data[end:], -zlib.MAX_WBITS)


def refusal(path: Path, *, pixels: bool) -> str:
    """Why the file is refused; fails if it takes more than FEW_BYTES."""
    tracemalloc.start()
    try:
        with pytest.raises(SeriesRefused) as refused:
            read_dataset(path, pixels=pixels)
        assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
    finally:
        tracemalloc.stop()
    return str(refused.value.detail)


@pytest.mark.parametrize("pixels", [True, False])
def test_elements_are_those_of_pydicom(tmp_path: Path, pixels: bool) -> None:
    path = deflated_slice(tmp_path)
    dataset = read_dataset(path, pixels=pixels)
    truth = pydicom.dcmread(path, stop_before_pixels=not pixels)
    assert dataset == truth
    assert dataset.file_meta == truth.file_meta
    assert dataset.PatientID == "Иванов"
    assert ("PixelData" in dataset) is pixels
    assert transfer_syntax(dataset) == DeflatedExplicitVRLittleEndian
    if pixels:
        assert np.array_equal(dataset.pixel_array, truth.pixel_array)


def test_elements_after_the_pixels_are_read(tmp_path: Path) -> None:
    def pad(dataset: Dataset) -> None:
        dataset.DataSetTrailingPadding = bytes(1000)

    path = deflated_slice(tmp_path, pad)
    assert len(read_dataset(path, pixels=True).DataSetTrailingPadding) == 1000


def test_a_header_is_read_without_inflating_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "m.dcm"
    bombs.seg_that_inflates(path, "1.2.3.4")
    path.write_bytes(path.read_bytes()[:200_000])  # so that inflating all of it is an error
    tracemalloc.start()
    try:
        assert read_dataset(path, pixels=False).Rows == 60
        assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
    finally:
        tracemalloc.stop()


def test_pixels_are_limited_by_the_size_that_the_header_states(tmp_path: Path) -> None:
    def expand(dataset: Dataset) -> None:
        dataset.PixelData = bytes(100 * bombs.MEBIBYTE)

    assert "inflates to more than" in refusal(deflated_slice(tmp_path, expand), pixels=True)


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    path = deflated_slice(tmp_path)
    meta, elements = split(path)
    at = elements.index(b"\xe0\x7f\x10\x00OW")
    value = struct.pack("<HH2sHI", 0x0099, 0x1001, b"OB", 0, 2**30)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = deflate.compress(elements[:at] + value) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(bombs.MEBIBYTE)) + deflate.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(meta + start + block * 1024 + deflate.flush())
    with pytest.raises(SeriesRefused, match="inflates to more than 67108864 bytes"):
        read_dataset(path, pixels=False)


@pytest.mark.parametrize("pixels", [True, False])
def test_millions_of_elements_are_refused(tmp_path: Path, pixels: bool) -> None:
    path = deflated_slice(tmp_path)
    meta, elements = split(path)
    empty = struct.pack("<HH2sH", 0x0099, 0x1001, b"LO", 0) * 2_000_000
    path.write_bytes(meta + zlib.compress(empty + elements, wbits=-zlib.MAX_WBITS))
    with pytest.raises(SeriesRefused, match="does not parse"):
        read_dataset(path, pixels=pixels)


def test_a_transfer_syntax_that_is_hidden_is_not_inflated_either(tmp_path: Path) -> None:
    """Behind a long value of the file meta, where the first bytes do not show it."""
    path = deflated_slice(tmp_path)
    meta, elements = split(path)
    long = struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 20_000) + bytes(20_000)
    path.write_bytes(meta[:144] + long + meta[144:])
    with path.open("ab") as file:
        file.write(zlib.compress(elements + bytes(64 * bombs.MEBIBYTE), wbits=-zlib.MAX_WBITS))
    assert refusal(path, pixels=False) == "the header does not parse"


@pytest.mark.parametrize("part", [0.3, 0.98])
def test_a_torn_stream_is_refused_where_it_is_needed(tmp_path: Path, part: float) -> None:
    path = deflated_slice(tmp_path)
    data = path.read_bytes()
    meta, _ = split(path)
    path.write_bytes(data[: len(meta) + int(part * (len(data) - len(meta)))])
    assert "torn" in refusal(path, pixels=True)
    assert read_dataset(path, pixels=False).Rows == 60


def test_a_damaged_stream_is_refused(tmp_path: Path) -> None:
    path = deflated_slice(tmp_path)
    meta, _ = split(path)
    path.write_bytes(meta + b"\xff" * 200)
    assert "damaged" in refusal(path, pixels=False)
