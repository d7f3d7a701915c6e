"""Chunk files that are read again and again, copied out of where they lie in the page cache."""

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

from voco_data.store.chunks.aligned import aligned

Bytes = npt.NDArray[np.uint8]

LIMIT = 8192
"""Files that stay mapped in a process. The kernel allows 65,530 mappings, and takes 8 bytes for
every 4 KiB: 20 MB for as many chunks of (32, 192, 192), 100 MB for those of (96, 256, 256)."""

KEPT = 256
"""Descriptors that stay open in a process, of the files that were mapped first: whether such a file
shrank is asked in half the time. A shell usually allows 1,024."""
_kept = BoundedSemaphore(KEPT)

_PIECE = 2**17
"""Bytes."""

# Python's own mapping always keeps a descriptor.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mapping_lock = Lock()
_FAILED = ctypes.c_void_p(-1).value


FileIdentity = tuple[int, int, int, int]
"""Device, inode, size and time of change: another file under the same path has another one."""


class ReplacedChunk(Exception):
    """Under the path lies another file, or other bytes, than when it was first asked for.

    No damage: whoever meets it looks at the file anew.
    """


class MappedFile:
    """A file for reading, as it was when first asked for.

    What is read once is read by a system call; from the second time on it is copied out of a
    mapping, which takes half the time or less where the kernel's own copy is slow. Where it cannot
    be mapped, every read is a call. A disk that fails under a mapping ends the process by SIGBUS,
    as with np.memmap; a file that was replaced, changed or cut short is noticed before.
    """

    __slots__ = ("_descriptor", "_mapping", "_path", "_read_before", "_slot", "identity", "size")

    def __init__(self, path: str) -> None:
        self._path = path
        self.identity = _identity(path)
        self.size = self.identity[2]
        """Bytes."""
        self._read_before = False
        self._mapping: Bytes | None = None
        self._descriptor: int | None = None

    def __del__(self) -> None:
        descriptor: int | None = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)
            self._slot.release()

    def read_into(self, part: npt.NDArray[Any], start: int = 0) -> int:
        """Fill `part` (n,) with the bytes from `start` on; returns how many there were.

        `part` is uint8, or float32: then the bytes are converted on the way. Raises OSError,
        ReplacedChunk.
        """
        array = self.mapped()
        if array is None:
            # The kernel copies at half the speed into memory that begins at no multiple of 32.
            straight = part.dtype == np.uint8 and part.ctypes.data % 32 == 0
            read = _call if straight else _cast
            with self._opened() as descriptor:
                return read(descriptor, part, start)
        found = array[start : start + part.size]
        np.copyto(part[: found.size], found)
        return found.size

    def mapped(self) -> Bytes | None:
        """All bytes where they lie, from the second time on. Raises OSError, ReplacedChunk.

        They stay there for as long as anyone refers to them.
        """
        if self._mapping is None:
            if self._read_before and self.size:
                self._map()
            self._read_before = True
        else:
            self._check()
        return self._mapping

    def _map(self) -> None:
        with self._opened() as descriptor:
            try:
                mapping = _map(descriptor, self.size)
            except OSError:  # no memory left, or a file system without mappings: read by calls
                return
            with _mapping_lock:  # two threads may both have come here
                if self._mapping is None and _kept.acquire(blocking=False):
                    self._keep(descriptor, _kept)
                self._mapping = mapping

    def _keep(self, descriptor: int, slot: BoundedSemaphore) -> None:
        try:
            self._slot, self._descriptor = slot, os.dup(descriptor)
        except OSError:  # none is left: the path is asked instead
            slot.release()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the very file."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _identity(descriptor) != self.identity:
                raise ReplacedChunk
            yield descriptor
        finally:
            os.close(descriptor)

    def _check(self) -> None:
        try:
            found = _identity(self._path if self._descriptor is None else self._descriptor)
        except FileNotFoundError:  # its bytes stay while they are mapped
            return
        if found != self.identity:
            raise ReplacedChunk


def _identity(file: str | int) -> FileIdentity:
    """Of a path or a descriptor."""
    found = os.stat(file)  # noqa: PTH116  twice as fast as Path.stat, and takes both
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _map(descriptor: int, size: int) -> Bytes:
    """A mapping of the whole file, to be read only. It needs no descriptor."""
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    address = _libc.mmap(None, size, mmap.PROT_READ, flags, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "cannot be mapped")
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size).atexit = False
    array: Bytes = np.frombuffer(memoryview(memory), np.uint8)
    array.flags.writeable = False
    return array


def _call(descriptor: int, part: Bytes, start: int) -> int:
    view, done = part.data, 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], start + done)
        if count == 0:
            break
        done += count
    return done


def _cast(descriptor: int, part: npt.NDArray[Any], start: int) -> int:
    """By way of a few bytes that stay in the processor's cache."""
    room, done = aligned(_PIECE), 0
    while done < part.size:
        piece = room[: part.size - done]
        count = _call(descriptor, piece, start + done)
        np.copyto(part[done : done + count], piece[:count])
        done += count
        if count < piece.size:
            break
    return done


class MappedFiles:
    """The files that were used last. Safe to use from several threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = Lock()
        self._files: OrderedDict[str, MappedFile] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._files)

    def get(self, path: str) -> MappedFile:
        """The file at `path`, looked at now if it is not known yet. Raises OSError."""
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

    def drop(self, path: str) -> None:
        """Look at `path` anew when it is asked for again."""
        with self._lock:
            self._files.pop(path, None)
