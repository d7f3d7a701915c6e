"""The two encodings of a chunk: raw voxels, or a Blosc frame with LZ4.

A Blosc frame begins with 16 bytes that state its encoded and decoded size (c-blosc,
README_CHUNK_FORMAT). They are compared with the expected sizes before anything is decoded.
"""

from __future__ import annotations

import struct
from typing import Literal

import numpy as np

from voco_data.volumes import Voxels

Compression = Literal["none", "lz4"]
"""`none`: voxels in C order. `lz4`: Zarr's codec `blosc` with the configuration `BLOSC`."""

BLOSC: dict[str, str | int] = {
    "cname": "lz4",
    "clevel": 5,
    "shuffle": "noshuffle",
    "typesize": 1,
    "blocksize": 0,
}
"""Configuration of the codec in the array's metadata. Chunks are compressed as bytes."""

_HEADER = struct.Struct("<4B3I")
_OVERHEAD = 16
"""Maximum number of bytes that a frame adds to its voxels (BLOSC_MAX_OVERHEAD)."""


class DamagedChunk(Exception):
    """A chunk is not what was committed; the text says why."""


def max_encoded_size(size: int, compression: Compression) -> int:
    """Maximum size in bytes on disk of a chunk of `size` decoded bytes."""
    return size if compression == "none" else size + _OVERHEAD


def encode(volume: Voxels, compression: Compression) -> bytes | memoryview:
    """The bytes of a chunk for a volume (Z, Y, X)."""
    content = np.ascontiguousarray(volume).reshape(-1).view(np.uint8)
    if compression == "none":
        return content.data
    from numcodecs import blosc

    frame: bytes = blosc.compress(content, b"lz4", 5, blosc.NOSHUFFLE)
    return frame


def decode(frame: memoryview, out: memoryview) -> None:
    """Decode a Blosc frame into `out`, bytes of the decoded size. Releases the GIL.

    Raises DamagedChunk if the frame states other sizes, or cannot be decoded.
    """
    from numcodecs import blosc

    if len(frame) < _HEADER.size:
        raise DamagedChunk(f"the chunk has {len(frame)} bytes, less than a header")
    *_, decoded, _, encoded = _HEADER.unpack_from(frame)
    if decoded != len(out) or encoded != len(frame):
        raise DamagedChunk(
            f"the chunk claims {encoded} bytes that become {decoded}, "
            f"expected {len(frame)} and {len(out)}"
        )
    # Chunks are read by several threads. Blosc's own would hold the GIL and start anew each time.
    blosc.use_threads = False
    try:
        blosc.decompress(frame, out)
    except (RuntimeError, ValueError) as error:
        raise DamagedChunk(f"the chunk does not decode ({error})") from error
