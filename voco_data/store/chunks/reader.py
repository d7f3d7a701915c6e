"""Chunk files of one local folder, read straight into the caller's memory.

A read costs a copy out of the page cache: no metadata is looked up, and nothing is allocated.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_data.store.chunks.aligned import aligned
from voco_data.store.chunks.codec import Compression, DamagedChunk, decode, longest
from voco_data.store.chunks.mapped_files import FileIdentity, MappedFile, MappedFiles, ReplacedChunk

_files = MappedFiles()
_local = threading.local()


def read_chunk(
    path: str,
    compression: Compression,
    out: npt.NDArray[np.uint8],
    known: FileIdentity | None = None,
) -> FileIdentity:
    """Read and decode a chunk into `out`, uint8 and C-contiguous; gives what file it was.

    Raises OSError, DamagedChunk where the sizes cannot be right, and ReplacedChunk if it is not
    the file that is `known`. The other functions do so too.
    """
    flat, file = out.reshape(-1), _file(path, known)
    if compression == "none":
        _whole(path, file, flat.size, flat.size, flat)
        return file.identity
    most = longest(flat.size, compression)
    _check_size(path, file.size, 0, most)
    frame = file.mapped()
    if frame is None:
        frame = _whole(path, file, 0, most, _scratch(most))
    decode(frame.data, flat.data)
    return file.identity


def read_floats(
    path: str,
    compression: Compression,
    out: npt.NDArray[np.float32],
    known: FileIdentity | None = None,
) -> None:
    """Read a chunk as `read_chunk` does, and convert its values on the way."""
    flat = out.reshape(-1)
    if compression == "none":
        _whole(path, _file(path, known), flat.size, flat.size, flat)
        return
    values = _scratch(flat.size, "values")
    read_chunk(path, compression, values, known)
    np.copyto(flat, values)


def read_parts(
    path: str,
    starts: Sequence[int],
    size: int,
    out: npt.NDArray[np.uint8],
    known: FileIdentity | None = None,
) -> None:
    """Bytes `starts[i]` and the following of an uncompressed chunk of `size` bytes into `out[i]`.

    `out` is uint8 (n, length), C-contiguous.
    """
    file = _file(path, known)
    _check_size(path, file.size, size, size)
    for start, part in zip(starts, out, strict=True):
        if file.read_into(part, start) < part.size:
            raise DamagedChunk("the chunk shrank while being read")


def view(path: str, size: int, known: FileIdentity) -> npt.NDArray[np.uint8] | None:
    """All bytes of an uncompressed chunk of `size` bytes where they lie; None if they do not."""
    file = _file(path, known)
    _check_size(path, file.size, size, size)
    return file.mapped()


def forget(path: str) -> None:
    """Do not trust what is mapped: the next read looks at the file anew."""
    _files.drop(path)


def _file(path: str, known: FileIdentity | None) -> MappedFile:
    file = _files.get(path)
    if known is not None and file.identity != known:
        raise ReplacedChunk
    return file


def _whole(
    path: str, file: MappedFile, least: int, most: int, room: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """All of the file, in the first bytes of `room`."""
    _check_size(path, file.size, least, most)
    found = room[: file.size]
    if file.read_into(found) < file.size:
        raise DamagedChunk("the chunk shrank while being read")
    return found


def _check_size(path: str, size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        forget(path)
        expected = f"{most}" if least == most else f"at most {most}"
        raise DamagedChunk(f"the chunk has {size} bytes, expected {expected}")


def _scratch(size: int, use: str = "bytes") -> npt.NDArray[np.uint8]:
    """Memory of this thread for one use, aligned, used again and again."""
    room: npt.NDArray[np.uint8] | None = getattr(_local, use, None)
    if room is None or room.size < size:
        room = aligned(size)
        setattr(_local, use, room)
    return room[:size]
