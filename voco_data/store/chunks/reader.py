"""Read chunk files of this machine directly into the caller's memory.

A read costs a copy out of the page cache: no metadata is looked up, and nothing is allocated.
Every function raises OSError, DamagedChunk where the size of a file cannot be right, and
ReplacedChunk where the path has another file than the one `known`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_data.store.chunks.codec import Compression, DamagedChunk, decode, max_encoded_size
from voco_data.store.chunks.mapped_files import FileIdentity, MappedFile, MappedFiles, ReplacedChunk
from voco_data.volumes import Voxels, aligned_bytes

_files = MappedFiles()
_local = threading.local()


def read_chunk(
    path: str,
    compression: Compression,
    out: Voxels,
    known: FileIdentity | None = None,
) -> FileIdentity:
    """Read and decode a chunk into `out`, uint8 and C-contiguous; returns which file it was."""
    flat, file = out.reshape(-1), _file(path, known)
    if compression == "none":
        _read_whole(path, file, flat.size, flat.size, flat)
        return file.identity
    limit = max_encoded_size(flat.size, compression)
    _check_size(path, file.size, 0, limit)
    frame = file.mapped()
    if frame is None:
        frame = _read_whole(path, file, 0, limit, _scratch(limit))
    decode(frame.data, flat.data)
    return file.identity


def read_floats(
    path: str,
    compression: Compression,
    out: npt.NDArray[np.float32],
    known: FileIdentity | None = None,
) -> None:
    """Read and decode a chunk into `out`, float32 and C-contiguous, values 0 to 255."""
    flat = out.reshape(-1)
    if compression == "none":
        _read_whole(path, _file(path, known), flat.size, flat.size, flat)
        return
    values = _scratch(flat.size, "values")
    read_chunk(path, compression, values, known)
    np.copyto(flat, values)


def read_parts(
    path: str,
    starts: Sequence[int],
    size: int,
    out: Voxels,
    known: FileIdentity | None = None,
) -> None:
    """Read the bytes from `starts[i]` on into `out[i]`, of an uncompressed chunk of `size` bytes.

    `out` is uint8 (n, length), C-contiguous.
    """
    file = _file(path, known)
    _check_size(path, file.size, size, size)
    for start, part in zip(starts, out, strict=True):
        if file.read_into(part, start) < part.size:
            raise DamagedChunk("the chunk shrank while being read")


def view(path: str, size: int, known: FileIdentity) -> Voxels | None:
    """A view of an uncompressed chunk of `size` bytes; None where the file is not mapped."""
    file = _file(path, known)
    _check_size(path, file.size, size, size)
    return file.mapped()


def forget(path: str) -> None:
    """Forget the mapping of a file: the next read opens it anew."""
    _files.drop(path)


def _file(path: str, known: FileIdentity | None) -> MappedFile:
    file = _files.get(path)
    if known is not None and file.identity != known:
        raise ReplacedChunk
    return file


def _read_whole(
    path: str, file: MappedFile, least: int, most: int, buffer: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Read the whole file, of `least` to `most` bytes; returns the part of `buffer` it fills."""
    _check_size(path, file.size, least, most)
    content = buffer[: file.size]
    if file.read_into(content) < file.size:
        raise DamagedChunk("the chunk shrank while being read")
    return content


def _check_size(path: str, size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        forget(path)
        expected = f"{most}" if least == most else f"at most {most}"
        raise DamagedChunk(f"the chunk has {size} bytes, expected {expected}")


def _scratch(size: int, use: str = "bytes") -> npt.NDArray[np.uint8]:
    """Aligned memory of this thread for one use, overwritten by the next."""
    buffer: npt.NDArray[np.uint8] | None = getattr(_local, use, None)
    if buffer is None or buffer.size < size:
        buffer = aligned_bytes(size)
        setattr(_local, use, buffer)
    return buffer[:size]
