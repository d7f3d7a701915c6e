"""Chunk files that are read repeatedly: copies out of a memory mapping of the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_data.volumes import aligned_bytes

Bytes = npt.NDArray[np.uint8]
BYTE: np.dtype[np.uint8] = np.dtype(np.uint8)

MAX_MAPPED_FILES = 8192
"""Files that stay mapped in a process. The kernel allows 65,530 mappings, and takes 8 bytes for
every 4 KiB: 20 MB for 8192 chunks of (32, 192, 192), 100 MB for those of (96, 256, 256)."""

MAX_DESCRIPTORS = 256
"""Descriptors that stay open in a process, for the first files that are mapped. With a descriptor,
the check whether a file has changed takes half the time. A shell usually allows 1,024."""
_descriptor_slots = BoundedSemaphore(MAX_DESCRIPTORS)

_CONVERSION_BYTES = 2**17
"""Bytes that are converted at a time: they fit in the processor's cache."""

# Called through ctypes because Python's own mapping always keeps a descriptor.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mapping_lock = Lock()
_FAILED = ctypes.c_void_p(-1).value


FileIdentity = tuple[int, int, int, int]
"""Device, inode, size and time of change. Two files that had the same path differ in it."""


class ReplacedChunk(Exception):
    """The path has another file, or other bytes, than when it was first opened.

    This does not mean damage: the caller opens the file anew and verifies it.
    """


class MappedFile:
    """A file for reading, as it was when it was first opened.

    The first read is a system call. Later reads copy out of a memory mapping, which takes half the
    time or less where the kernel's own copy is slow. A file that cannot be mapped is read by system
    calls. Every read checks that the file was not replaced, changed or truncated. If the disk fails
    under a mapping, SIGBUS ends the process, as with np.memmap.
    """

    __slots__ = ("_descriptor", "_mapping", "_path", "_slots", "_was_read", "identity", "size")

    def __init__(self, path: str) -> None:
        self._path = path
        self.identity = _identity(path)
        self.size = self.identity[2]
        """Bytes."""
        self._was_read = False
        self._mapping: Bytes | None = None
        self._descriptor: int | None = None

    def __del__(self) -> None:
        descriptor: int | None = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)
            self._slots.release()

    def read_into(self, part: Bytes, start: int = 0) -> int:
        """Fill `part` (n,) with the bytes from `start` on; returns the number of bytes read.

        Raises OSError, ReplacedChunk.
        """
        array = self.get_mapping()
        if array is None:
            # The kernel copies at half the speed to addresses that are no multiple of 32.
            if part.ctypes.data % 32 == 0:
                with self._open() as descriptor:
                    return _read_direct(descriptor, part, start)
            return self._read_converted(part, start, BYTE)
        source = array[start : start + part.size]
        np.copyto(part[: source.size], source)
        return source.size

    def read_converted(self, values: npt.NDArray[Any], stored: np.dtype[Any]) -> int:
        """Fill `values` (n,) with the first n numbers of the file; returns the number read.

        The file holds numbers of the type `stored`, which are converted to the type of `values`.
        Raises OSError, ReplacedChunk.
        """
        array = self.get_mapping()
        if array is None:
            return self._read_converted(values, 0, stored)
        source = array[: values.size * stored.itemsize].view(stored)
        np.copyto(values[: source.size], source)
        return source.size

    def _read_converted(self, values: npt.NDArray[Any], start: int, stored: np.dtype[Any]) -> int:
        with self._open() as descriptor:
            return _read_converted(descriptor, values, start, stored)

    def get_mapping(self) -> Bytes | None:
        """Return the mapping of the file, or None if the file is not mapped.

        The second call maps the file, if that is possible. The mapping is valid for as long as
        anything refers to it. Raises OSError, ReplacedChunk.
        """
        if self._mapping is None:
            if self._was_read and self.size:
                self._map()
            self._was_read = True
        else:
            self._check_unchanged()
        return self._mapping

    def _map(self) -> None:
        with self._open() as descriptor:
            try:
                mapping = _map(descriptor, self.size)
            except OSError:  # no memory, or a file system without mappings: read by calls
                return
            with _mapping_lock:  # two threads may map the file at once
                if self._mapping is None and _descriptor_slots.acquire(blocking=False):
                    self._keep_descriptor(descriptor, _descriptor_slots)
                self._mapping = mapping

    def _keep_descriptor(self, descriptor: int, slots: BoundedSemaphore) -> None:
        try:
            self._slots, self._descriptor = slots, os.dup(descriptor)
        except OSError:  # the process has no descriptor left: `_check` asks the path instead
            slots.release()

    @contextmanager
    def _open(self) -> Iterator[int]:
        """A descriptor of the file. Raises ReplacedChunk if the path has another one."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _identity(descriptor) != self.identity:
                raise ReplacedChunk
            yield descriptor
        finally:
            os.close(descriptor)

    def _check_unchanged(self) -> None:
        """Raise ReplacedChunk if the file has changed since it was mapped."""
        try:
            identity = _identity(self._path if self._descriptor is None else self._descriptor)
        except FileNotFoundError:  # the mapping keeps the bytes of a file that was removed
            return
        if identity != self.identity:
            raise ReplacedChunk


def _identity(file: str | int) -> FileIdentity:
    """The identity of a path or a descriptor."""
    status = os.stat(file)  # noqa: PTH116  twice as fast as Path.stat, and takes both
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _map(descriptor: int, size: int) -> Bytes:
    """A read-only mapping of the whole file. It outlives the descriptor."""
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    address = _libc.mmap(None, size, mmap.PROT_READ, flags, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "cannot be mapped")
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size).atexit = False
    array: Bytes = np.frombuffer(memoryview(memory), np.uint8)
    array.flags.writeable = False
    return array


def _read_direct(descriptor: int, part: Bytes, start: int) -> int:
    """Read from `start` on into `part`; returns the number of bytes read."""
    view = part.data
    n_read = 0
    while n_read < len(view):
        count = os.preadv(descriptor, [view[n_read:]], start + n_read)
        if count == 0:
            break
        n_read += count
    return n_read


def _read_converted(
    descriptor: int, values: npt.NDArray[Any], start: int, stored: np.dtype[Any]
) -> int:
    """Read numbers of the type `stored` through a small aligned buffer, and convert them.

    The first number is at byte `start`. Returns the number read.
    """
    buffer = aligned_bytes(_CONVERSION_BYTES)
    n_read = 0
    while n_read < values.size:
        block = buffer[: (values.size - n_read) * stored.itemsize]
        size = _read_direct(descriptor, block, start + n_read * stored.itemsize)
        count = size // stored.itemsize
        np.copyto(values[n_read : n_read + count], block[: count * stored.itemsize].view(stored))
        n_read += count
        if size < block.size:
            break
    return n_read


class MappedFiles:
    """The `MappedFile`s that were used last. Safe to use from several threads."""

    def __init__(self, limit: int = MAX_MAPPED_FILES) -> None:
        self._limit = limit
        self._lock = Lock()
        self._files: OrderedDict[str, MappedFile] = OrderedDict()

    def __len__(self) -> int:
        """Number of files that are kept."""
        return len(self._files)

    def get(self, path: str) -> MappedFile:
        """The file at `path`, opened now if it is not kept. Raises OSError."""
        with self._lock:
            file = self._files.get(path)
            if file is not None:
                self._files.move_to_end(path)
                return file
        file = MappedFile(path)
        with self._lock:
            self._files[path] = file
            if len(self._files) > self._limit:
                self._files.popitem(last=False)
        return file

    def remove(self, path: str) -> None:
        """Forget the file at `path`, so that the next `get` opens it anew."""
        with self._lock:
            self._files.pop(path, None)
