"""Headers of encoded frames (JPEG, JPEG-LS, JPEG 2000, RLE), parsed before a codec decodes them.

The header of a damaged frame of a few bytes can claim gigabytes, and codecs allocate them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

SOI = b"\xff\xd8"
"""Start of image (T.81 B.1.1.3)."""
START_OF_FRAME_MARKERS = frozenset({0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers SOF0 to SOF15 of JPEG (T.81 table B.1), and SOF55 of JPEG-LS (T.87)."""
STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, RST0 to RST7 and SOI (T.81 B.1.1.3)."""
SOC_SIZ = b"\xff\x4f\xff\x51"
"""The first two markers of a JPEG 2000 codestream (T.800 A.4, A.5)."""
MAX_BOX_BYTES = 4096
"""Limit of the JP2 boxes before the codestream. DICOM forbids them; some scanners write them."""
MAX_TILES = 65_535
"""Largest number of tiles (T.800 A.4.2)."""
RLE_HEADER_BYTES = 64
"""The number of segments and 15 offsets, each of 32 bits (PS3.5 G.5)."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """Size and sample format in the header of an encoded frame."""

    rows: int
    columns: int
    components: int
    bits: int
    """Bits of a sample."""
    signed: bool | None = None
    """Whether samples are signed; None if the format does not tell."""


def parse_jpeg_header(frame: bytes) -> FrameHeader:
    """Parse the start-of-frame segment of JPEG (T.81 B.2.2) or JPEG-LS. Raises ValueError."""
    if frame[:2] != SOI:
        raise ValueError("no JPEG starts here")
    at = 2
    while at + 4 <= len(frame):
        if frame[at] != 0xFF:
            raise ValueError("a marker is missing")
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in STANDALONE_MARKERS:
            at += 2
        elif marker in START_OF_FRAME_MARKERS:
            if at + 10 > len(frame):
                break
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            return FrameHeader(rows, columns, components, bits)
        else:
            at += 2 + max(2, struct.unpack_from(">H", frame, at + 2)[0])
    raise ValueError("no start of frame")


def parse_jpeg2000_header(frame: bytes) -> FrameHeader:
    """Parse the SIZ segment of JPEG 2000 (T.800 A.5.1). Raises ValueError."""
    at = frame.find(SOC_SIZ, 0, MAX_BOX_BYTES)
    if at < 0 or at + 43 > len(frame):
        raise ValueError("no JPEG 2000 codestream starts here")
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", frame, at + 8)
    components, precision = struct.unpack_from(">HB", frame, at + 40)
    rows, columns = bottom - top, right - left
    if tile_width < 1 or tile_height < 1:
        raise ValueError("tiles without a size")
    if (right // tile_width + 1) * (bottom // tile_height + 1) > MAX_TILES:
        raise ValueError("more tiles than the standard allows")
    return FrameHeader(rows, columns, components, (precision & 0x7F) + 1, bool(precision & 0x80))


def check_rle_header(frame: bytes, segments: int) -> None:
    """Raise ValueError unless the header of an RLE frame lists `segments` in order (PS3.5 G.5)."""
    if len(frame) < RLE_HEADER_BYTES:
        raise ValueError("shorter than its header")
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != segments:
        raise ValueError(f"{count} segments, expected {segments}")
    bounds = [*offsets[:count], len(frame)]
    if bounds[0] != RLE_HEADER_BYTES or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError("segments out of order")
