"""Grey and coloured pictures as PNG, without an imaging library: a GPU machine has none."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LEVEL = 6
"""Compression of zlib."""


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of uint8 (rows, columns), 8 bit grey, or (rows, columns, 3), 8 bit RGB
    (ISO/IEC 15948, 11.2.1 and 12.7).

    Each row has filter 2, the difference from the row above, which makes pictures smaller.
    """
    rows, columns = image.shape[:2]
    colour_type = 2 if image.ndim == 3 else 0
    lines = image.reshape(rows, -1)
    above = np.vstack([np.zeros((1, lines.shape[1]), np.uint8), lines[:-1]])
    filtered = np.empty((rows, lines.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    np.subtract(lines, above, out=filtered[:, 1:])
    header = struct.pack(">IIBBBBB", columns, rows, 8, colour_type, 0, 0, 0)
    content = zlib.compress(filtered.tobytes(), LEVEL)
    return SIGNATURE + b"".join(
        [_chunk(b"IHDR", header), _chunk(b"IDAT", content), _chunk(b"IEND", b"")]
    )


def data_uri(image: npt.NDArray[np.uint8]) -> str:
    """The picture as a URI that a page embeds."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
