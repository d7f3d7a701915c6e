"""Read chunk files of this machine directly into the caller's memory.

A read is one copy out of the page cache: no metadata is looked up, and nothing is allocated. Every
function raises OSError, DamagedChunk if a file has an impossible size, and ReplacedChunk if the
path has another file than `identity` says.
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
_scratch_buffers = threading.local()


def read_chunk(
    path: str,
    compression: Compression,
    out: Voxels,
    identity: FileIdentity | None = None,
) -> FileIdentity:
    """Read and decode a chunk into `out`, which is C-contiguous; returns which file it was."""
    content, file = out.reshape(-1).view(BYTE), _get_file(path, identity)
    if compression == "none":
        _check_size(path, file.size, content.size, content.size)
        _check_read(file.read_into(content), content.size)
        return file.identity
    limit = max_encoded_size(content.size, compression)
    _check_size(path, file.size, 0, limit)
    frame = file.get_mapping()
    if frame is None:
        frame = _scratch_buffer(limit)[: file.size]
        _check_read(file.read_into(frame), file.size)
    decode(frame.data, content.data)
    return file.identity


def read_floats(
    path: str,
    compression: Compression,
    out: npt.NDArray[np.float32],
    stored: np.dtype[Any],
    identity: FileIdentity | None = None,
) -> None:
    """Read and decode a chunk of voxels of the type `stored`; convert them to float32.

    `out` is C-contiguous.
    """
    flat = out.reshape(-1)
    size = flat.size * stored.itemsize
    if compression == "none":
        file = _get_file(path, identity)
        _check_size(path, file.size, size, size)
        _check_read(file.read_converted(flat, stored), flat.size)
        return
    voxels = _scratch_buffer(size, "voxels").view(stored)
    read_chunk(path, compression, voxels, identity)
    np.copyto(flat, voxels)


def read_parts(
    path: str,
    starts: Sequence[int],
    size: int,
    out: Bytes,
    identity: FileIdentity | None = None,
) -> None:
    """Read the bytes from `starts[i]` on into `out[i]`, of an uncompressed chunk of `size` bytes.

    `out` is (n, length), C-contiguous.
    """
    file = _get_file(path, identity)
    _check_size(path, file.size, size, size)
    for start, part in zip(starts, out, strict=True):
        _check_read(file.read_into(part, start), part.size)


def view_chunk(path: str, size: int, identity: FileIdentity) -> Bytes | None:
    """View an uncompressed chunk of `size` bytes; None if the file is not mapped."""
    file = _get_file(path, identity)
    _check_size(path, file.size, size, size)
    return file.get_mapping()


def forget(path: str) -> None:
    """Forget the mapping of a file, so that the next read opens it anew."""
    _files.remove(path)


def _get_file(path: str, identity: FileIdentity | None) -> MappedFile:
    file = _files.get(path)
    if identity is not None and file.identity != identity:
        raise ReplacedChunk
    return file


def _check_size(path: str, size: int, min_size: int, max_size: int) -> None:
    if not min_size <= size <= max_size:
        forget(path)
        expected = f"{max_size}" if min_size == max_size else f"at most {max_size}"
        raise DamagedChunk(f"the chunk has {size} bytes, expected {expected}")


def _check_read(count: int, expected: int) -> None:
    if count < expected:
        raise DamagedChunk("the chunk shrank while being read")


def _scratch_buffer(size: int, name: str = "bytes") -> Bytes:
    """Aligned memory of this thread for one use, overwritten by the next use of its name."""
    buffer: Bytes | None = getattr(_scratch_buffers, name, None)
    if buffer is None or buffer.size < size:
        buffer = aligned_bytes(size)
        setattr(_scratch_buffers, name, buffer)
    return buffer[:size]
