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
from voco_data.store.chunks.mapped_files import FileIdentity, MappedFile, MappedFiles, ReplacedChunk
from voco_data.volumes import Voxels, aligned_bytes

_files = MappedFiles()
_scratch_buffers = threading.local()


def read_chunk(
    path: str,
    compression: Compression,
    out: Voxels,
    identity: FileIdentity | None = None,
) -> FileIdentity:
    """Read and decode a chunk into `out`, uint8 and C-contiguous; returns which file it was."""
    flat, file = out.reshape(-1), _get_file(path, identity)
    if compression == "none":
        _read_whole(path, file, flat.size, flat.size, flat)
        return file.identity
    limit = max_encoded_size(flat.size, compression)
    _check_size(path, file.size, 0, limit)
    frame = file.get_mapping()
    if frame is None:
        frame = _read_whole(path, file, 0, limit, _scratch_buffer(limit))
    decode(frame.data, flat.data)
    return file.identity


def read_floats(
    path: str,
    compression: Compression,
    out: npt.NDArray[np.float32],
    identity: FileIdentity | None = None,
) -> None:
    """Read and decode a chunk into `out`, float32 and C-contiguous, values 0 to 255."""
    flat = out.reshape(-1)
    if compression == "none":
        _read_whole(path, _get_file(path, identity), flat.size, flat.size, flat)
        return
    values = _scratch_buffer(flat.size, "values")
    read_chunk(path, compression, values, identity)
    np.copyto(flat, values)


def read_parts(
    path: str,
    starts: Sequence[int],
    size: int,
    out: Voxels,
    identity: FileIdentity | None = None,
) -> None:
    """Read the bytes from `starts[i]` on into `out[i]`, of an uncompressed chunk of `size` bytes.

    `out` is uint8 (n, length), C-contiguous.
    """
    file = _get_file(path, identity)
    _check_size(path, file.size, size, size)
    for start, part in zip(starts, out, strict=True):
        if file.read_into(part, start) < part.size:
            raise DamagedChunk("the chunk shrank while being read")


def view_chunk(path: str, size: int, identity: FileIdentity) -> Voxels | None:
    """View an uncompressed chunk of `size` bytes, uint8 (size,); None if the file is not mapped."""
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


def _read_whole(
    path: str, file: MappedFile, min_size: int, max_size: int, buffer: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Read the whole file into `buffer`; returns the part of `buffer` that it fills."""
    _check_size(path, file.size, min_size, max_size)
    content = buffer[: file.size]
    if file.read_into(content) < file.size:
        raise DamagedChunk("the chunk shrank while being read")
    return content


def _check_size(path: str, size: int, min_size: int, max_size: int) -> None:
    if not min_size <= size <= max_size:
        forget(path)
        expected = f"{max_size}" if min_size == max_size else f"at most {max_size}"
        raise DamagedChunk(f"the chunk has {size} bytes, expected {expected}")


def _scratch_buffer(size: int, name: str = "bytes") -> npt.NDArray[np.uint8]:
    """Aligned memory of this thread, uint8 (size,), overwritten by the next use of its name."""
    buffer: npt.NDArray[np.uint8] | None = getattr(_scratch_buffers, name, None)
    if buffer is None or buffer.size < size:
        buffer = aligned_bytes(size)
        setattr(_scratch_buffers, name, buffer)
    return buffer[:size]
