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
from voco_data.store.chunks.mapped_files import (
    BYTE,
    Bytes,
    FileIdentity,
    MappedFile,
    MappedFiles,
    ReplacedChunk,
)
from voco_data.volumes import Voxels, aligned_bytes

_files = MappedFiles()
_local = threading.local()


def read_chunk(
    path: str,
    compression: Compression,
    out: Voxels,
    known: FileIdentity | None = None,
) -> FileIdentity:
    """Read and decode a chunk into `out`, which is C-contiguous; returns which file it was."""
    content, file = out.reshape(-1).view(BYTE), _file(path, known)
    if compression == "none":
        _check_size(path, file.size, content.size, content.size)
        _check_read(file.read_into(content), content.size)
        return file.identity
    limit = max_encoded_size(content.size, compression)
    _check_size(path, file.size, 0, limit)
    frame = file.mapped()
    if frame is None:
        frame = _scratch(limit)[: file.size]
        _check_read(file.read_into(frame), file.size)
    decode(frame.data, content.data)
    return file.identity


def read_floats(
    path: str,
    compression: Compression,
    out: npt.NDArray[np.float32],
    stored: np.dtype[Any],
    known: FileIdentity | None = None,
) -> None:
    """Read and decode a chunk of voxels of the type `stored`; convert them to float32.

    `out` is C-contiguous.
    """
    flat = out.reshape(-1)
    size = flat.size * stored.itemsize
    if compression == "none":
        file = _file(path, known)
        _check_size(path, file.size, size, size)
        _check_read(file.read_converted(flat, stored), flat.size)
        return
    voxels = _scratch(size, "voxels").view(stored)
    read_chunk(path, compression, voxels, known)
    np.copyto(flat, voxels)


def read_parts(
    path: str,
    starts: Sequence[int],
    size: int,
    out: Bytes,
    known: FileIdentity | None = None,
) -> None:
    """Read the bytes from `starts[i]` on into `out[i]`, of an uncompressed chunk of `size` bytes.

    `out` is (n, length), C-contiguous.
    """
    file = _file(path, known)
    _check_size(path, file.size, size, size)
    for start, part in zip(starts, out, strict=True):
        _check_read(file.read_into(part, start), part.size)


def view(path: str, size: int, known: FileIdentity) -> Bytes | None:
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


def _check_size(path: str, size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        forget(path)
        expected = f"{most}" if least == most else f"at most {most}"
        raise DamagedChunk(f"the chunk has {size} bytes, expected {expected}")


def _check_read(count: int, expected: int) -> None:
    if count < expected:
        raise DamagedChunk("the chunk shrank while being read")


def _scratch(size: int, use: str = "bytes") -> Bytes:
    """Aligned memory of this thread for one use, overwritten by the next."""
    buffer: Bytes | None = getattr(_local, use, None)
    if buffer is None or buffer.size < size:
        buffer = aligned_bytes(size)
        setattr(_local, use, buffer)
    return buffer[:size]
