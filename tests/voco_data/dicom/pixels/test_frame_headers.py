"""Claimed sizes of frames that other libraries encoded, and of bytes made by hand."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest

from voco_data.dicom.pixels.frame_headers import (
    FrameHeader,
    check_rle_header,
    parse_jpeg2000_header,
    parse_jpeg_header,
)

IMAGE = (np.arange(37 * 53).reshape(37, 53) % 4000).astype(np.uint16)


def test_claims_are_what_was_encoded() -> None:
    assert parse_jpeg_header(imagecodecs.jpegls_encode(IMAGE)) == FrameHeader(37, 53, 1, 16)
    grey = (IMAGE >> 4).astype(np.uint8)
    assert parse_jpeg_header(imagecodecs.jpeg8_encode(grey)) == FrameHeader(37, 53, 1, 8)
    colour = np.stack([grey] * 3, axis=-1)
    assert parse_jpeg_header(imagecodecs.jpeg8_encode(colour)) == FrameHeader(37, 53, 3, 8)
    for container in ("J2K", "JP2"):
        encoded = imagecodecs.jpeg2k_encode(IMAGE, codecformat=container, reversible=True)
        assert parse_jpeg2000_header(encoded) == FrameHeader(37, 53, 1, 16, signed=False)


@pytest.mark.parametrize(
    "frame", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"no image at all", b"\xff\xd8" + b"\xff" * 999]
)
def test_no_claim_is_an_error(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_jpeg_header(frame)
    with pytest.raises(ValueError, match=r"\w"):
        parse_jpeg2000_header(frame)


def test_a_million_tiles_are_an_error() -> None:
    encoded = bytearray(imagecodecs.jpeg2k_encode(IMAGE, codecformat="J2K", reversible=True))
    struct.pack_into(">6I", encoded, 8, 60_000, 60_000, 0, 0, 1, 1)
    with pytest.raises(ValueError, match="tiles"):
        parse_jpeg2000_header(bytes(encoded))


@pytest.mark.parametrize(
    ("count", "offsets"),
    [(2, (64, 4_000_000_000)), (2, (64, 64)), (2, (65, 80)), (1, (64, 0)), (3, (64, 80, 90))],
)
def test_rle_offsets_out_of_the_frame_are_an_error(count: int, offsets: tuple[int, ...]) -> None:
    header = struct.pack("<16I", count, *offsets, *[0] * (15 - len(offsets)))
    with pytest.raises(ValueError, match="segments"):
        check_rle_header(header + bytes(100), 2)
    check_rle_header(struct.pack("<16I", 2, 64, 80, *[0] * 13) + bytes(100), 2)
