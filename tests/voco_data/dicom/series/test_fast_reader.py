"""The fast reader against the thorough one: the same volume, or None."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tests.support.ct_files import body, write_slices
from tests.support.mutations import mutate
from voco_data.dicom.pixels.hu_kernels import SLACK_BYTES, decode_rle_planes
from voco_data.dicom.series.fast_reader import MAX_REUSED_BYTES, ReusedBuffer, read_fast
from voco_data.dicom.series.header_scan import HeaderScanner
from voco_data.dicom.series.reader import read_with_pydicom
from voco_data.errors import SeriesRefused
from voco_data.volumes.slice_spacing import GapPolicy
from voco_data.volumes.volume import Volume

GAPS = GapPolicy(0.05)


def check_same(quick: Volume | None, thorough: Volume) -> None:
    assert quick is not None
    assert np.array_equal(quick.hu, thorough.hu)
    for name in ("geometry", "instance_numbers", "transfer_syntax", "flags"):
        assert getattr(quick, name) == getattr(thorough, name)
    assert quick.content_digest() == thorough.content_digest()
    assert quick.input_digest("driver") == thorough.input_digest("driver")


@pytest.mark.parametrize(
    ("tags", "rle"),
    [
        ({}, False),
        ({}, True),
        ({"BitsStored": 12, "HighBit": 11}, True),
        ({"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}, True),
        ({"PixelRepresentation": 1, "RescaleIntercept": 100}, False),
        ({"RescaleIntercept": -32000}, True),
        ({"RescaleIntercept": 31_498}, True),  # some are beyond int16
        ({"RescaleIntercept": 31_498}, False),
        ({"RescaleIntercept": -1024.5}, True),
        ({"RescaleSlope": 0.5}, True),
        ({"HighBit": 13, "BitsStored": 12}, False),
        ({"PixelPaddingValue": 0}, True),
        ({"PixelPaddingValue": 24}, True),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 30}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, False),
        ({"LossyImageCompression": "01"}, False),
        ({"InstanceNumber": lambda index: 90 - index}, True),
    ],
)
def test_pixels_of_every_kind(tmp_path: Path, tags: dict[str, Any], rle: bool) -> None:
    paths = write_slices(tmp_path, body((9, 20, 24)), rle=rle, tags=tags)
    check_same(read_fast(paths, GAPS, 3), read_with_pydicom(paths, GAPS, 3))


@pytest.mark.parametrize(
    ("orientation", "step_mm"),
    [
        ((1, 0, 0, 0, 1, 0), (0, 0, 5.0)),
        ((1, 0, 0, 0, 1, 0), (0, 0, -5.0)),
        ((-1, 0, 0, 0, 1, 0), (0, 0, 5.0)),
        ((1, 0, 0, 0, -1, 0), (0, 0, -5.0)),
        ((0, 1, 0, 0, 0, -1), (5.0, 0, 0)),
        ((1, 0, 0, 0, 0, -1), (0, 5.0, 0)),
        ((1, 0, 0, 0, 0.8, 0.6), (0, -3.0, 4.0)),
        ((1, 0, 0, 0, 1, 0), (0, 1.0, 5.0)),  # a tilted gantry
    ],
)
def test_every_orientation(
    tmp_path: Path, orientation: tuple[float, ...], step_mm: tuple[float, float, float]
) -> None:
    hu = body((9, 20, 24))
    paths = write_slices(tmp_path, hu, orientation=orientation, step_mm=step_mm, rle=True)
    paths = paths[3:] + paths[:3]  # file names do not give the order
    check_same(read_fast(paths, GAPS, 3), read_with_pydicom(paths, GAPS, 3))


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "MR"},
        {"ImageType": ["DERIVED", "SECONDARY", "MIP"]},
        {"BurnedInAnnotation": "YES"},
        {"PixelSpacing": lambda index: [2.0 + 0.1 * index, 2.0]},
        {"ImagePositionPatient": [0, 0, 0]},
        {"ImagePositionPatient": lambda index: [0, 0, 5.0 * index + (index == 4)]},
        {"RescaleSlope": 0},
        {"Rows": 21},
    ],
)
def test_what_is_refused_is_left_to_the_thorough_reader(
    tmp_path: Path, tags: dict[str, Any]
) -> None:
    paths = write_slices(tmp_path, body((9, 20, 24)), tags=tags)
    assert read_fast(paths, GAPS, 3) is None
    with pytest.raises(SeriesRefused):
        read_with_pydicom(paths, GAPS, 3)


def test_damaged_series_give_none_or_the_thorough_volume(tmp_path: Path) -> None:
    hu = body((4, 20, 24))
    series = [write_slices(tmp_path / str(rle), hu, rle=rle) for rle in (False, True)]
    read = 0
    for seed in range(1_200):
        paths = series[seed % 8 // 4]
        damaged = tmp_path / "damaged"
        damaged.write_bytes(mutate(paths[1].read_bytes(), seed))
        files = [paths[0], damaged, *paths[2:]]
        volume = read_fast(files, GAPS, 3)
        if volume is not None:
            read += 1
            check_same(volume, read_with_pydicom(files, GAPS, 3))
    assert read > 50


def test_a_file_that_changes_between_the_two_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_slices(tmp_path, body((6, 20, 24)))
    other = write_slices(tmp_path / "other", body((6, 20, 24)), tags={"PatientID": "other"})
    whole = HeaderScanner.scan_slice

    def changed(self: HeaderScanner, *args: Any) -> Any:
        paths[3].write_bytes(other[3].read_bytes())
        return whole(self, *args)

    monkeypatch.setattr(HeaderScanner, "scan_slice", changed)
    assert read_fast(paths, GAPS, 3) is None


def planes(frame: bytes, pixels: int) -> bytes | None:
    """The planes that the kernel decodes from an RLE frame between other bytes; None if refused."""
    data = np.frombuffer(b"\x05" * 7 + frame + b"\xfe" * SLACK_BYTES, np.uint8)
    high, low = (np.full(pixels + SLACK_BYTES, 7, np.uint8) for _ in range(2))
    if not decode_rle_planes(data, 7, len(frame), high, low, pixels):
        return None
    return high[:pixels].tobytes() + low[:pixels].tobytes()


def reference(frame: bytes, pixels: int) -> bytes | None:
    """PS3.5 G.3.2 byte by byte; None unless each segment has `pixels` bytes, and no others."""
    head = [int.from_bytes(frame[at : at + 4], "little") for at in range(0, 12, 4)]
    if len(frame) < 64 or head[:2] != [2, 64] or not 64 < head[2] < len(frame):
        return None
    decoded = b""
    for segment in (frame[64 : head[2]], frame[head[2] :]):
        out, at = b"", 0
        while len(out) < pixels:
            if at >= len(segment):
                return None
            n = segment[at]
            piece = segment[at + 1 : at + 2 + n] if n < 128 else segment[at + 1 : at + 2]
            if n == 128:
                at += 1
                continue
            if len(piece) < (n + 1 if n < 128 else 1):
                return None
            out += piece if n < 128 else piece * (257 - n)
            at += 1 + len(piece)
        if len(out) != pixels or len(segment) - at > 1:
            return None
        decoded += out
    return decoded


RUN = st.one_of(
    st.binary(min_size=1, max_size=128).map(lambda b: bytes([len(b) - 1]) + b),
    st.builds(lambda n, v: bytes([257 - n, v]), st.integers(2, 128), st.integers(0, 255)),
    st.just(b"\x80"),
)
SEGMENT = st.lists(RUN, min_size=1, max_size=12).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(high=SEGMENT, low=SEGMENT, pixels=st.integers(1, 900), pad=st.binary(max_size=2))
def test_rle_is_decoded_as_by_the_standard_or_refused(
    high: bytes, low: bytes, pixels: int, pad: bytes
) -> None:
    def length(segment: bytes) -> int:
        at = total = 0
        while at < len(segment):
            n = segment[at]
            total += 0 if n == 128 else n + 1 if n < 128 else 257 - n
            at += 1 if n == 128 else n + 2 if n < 128 else 2
        return total

    def frame(first: bytes, second: bytes) -> bytes:
        offsets = [2, 64, 64 + len(first), *[0] * 13]
        return b"".join(n.to_bytes(4, "little") for n in offsets) + first + second + pad

    for size in {pixels, length(high), length(low)}:
        for second in (low, high):
            encoded = frame(high, second)
            assert planes(encoded, size) == reference(encoded, size)


@settings(max_examples=300, deadline=None)
@given(frame=st.binary(max_size=300), pixels=st.integers(1, 400))
def test_any_bytes_are_decoded_within_bounds(frame: bytes, pixels: int) -> None:
    assert planes(frame, pixels) == reference(frame, pixels)


def test_memory_in_use_is_not_reused() -> None:
    buffer = ReusedBuffer()
    first = buffer.empty((4, 5, 6))
    first[:] = 1
    view = first[::-1, 1:].transpose(2, 0, 1)
    del first
    second = buffer.empty((4, 5, 6))
    second[:] = 2
    assert (view == 1).all()
    address = second.__array_interface__["data"][0]
    del second
    assert buffer.empty((3, 5, 6)).__array_interface__["data"][0] == address


def test_memory_of_large_volumes_is_not_kept() -> None:
    buffer = ReusedBuffer()
    buffer.empty((2, 3))
    kept = buffer._buffer
    assert (
        buffer.empty((MAX_REUSED_BYTES,)).size == MAX_REUSED_BYTES
    )  # virtual memory: no page is touched
    assert buffer._buffer is kept
