"""The two forms of a chunk on disk: the voxels as they are, or in a Blosc frame of LZ4.

Blosc's frame begins with 16 bytes that state both sizes (c-blosc, README_CHUNK_FORMAT): they are
compared with what we expect before anything is decoded.
"""

from __future__ import annotations

import struct
from typing import Literal

import numpy as np
import numpy.typing as npt

Compression = Literal["none", "lz4"]
"""`none`: bytes in C order. `lz4`: Zarr's codec `blosc` with the settings below."""

BLOSC: dict[str, str | int] = {
    "cname": "lz4",
    "clevel": 5,
    "shuffle": "noshuffle",
    "typesize": 1,
    "blocksize": 0,
}
"""Configuration of the codec in the array's metadata. Shuffling does not help single bytes."""

_HEADER = struct.Struct("<4B3I")
_OVERHEAD = 16
"""A frame is never longer than its voxels and this."""


class DamagedChunk(Exception):
    """A chunk cannot be what was committed; the text says why, in a few words."""


def longest(size: int, compression: Compression) -> int:
    """Most bytes that a chunk of `size` decoded bytes has on disk."""
    return size if compression == "none" else size + _OVERHEAD


def encode(volume: npt.NDArray[np.uint8], compression: Compression) -> bytes | memoryview:
    """The chunk of a volume, as it is written."""
    flat = np.ascontiguousarray(volume).reshape(-1)
    if compression == "none":
        return flat.data
    from numcodecs import blosc

    frame: bytes = blosc.compress(flat, b"lz4", 5, blosc.NOSHUFFLE)
    return frame


def decode(frame: memoryview, out: memoryview) -> None:
    """Decode a Blosc frame into `out`, which has the decoded size. Releases the GIL.

    Raises DamagedChunk if the frame states other sizes, or does not decode.
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
    # Our readers are threads already. Blosc's own would hold the GIL, and start anew each time.
    blosc.use_threads = False
    try:
        blosc.decompress(frame, out)
    except (RuntimeError, ValueError) as error:
        raise DamagedChunk(f"the chunk does not decode ({error})") from error
