"""Files that stay open between reads, so many and no more."""

from __future__ import annotations

import errno
import mmap
import os
from collections import OrderedDict
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

_FLAGS = mmap.MAP_SHARED | mmap.MAP_POPULATE

_PIECE = 2**17
"""Bytes."""

LIMIT = 256
"""Files that stay open in a process; each takes two descriptors once it is mapped. A shell usually
allows 1,024."""


class OpenFile:
    """A file opened for reading. It closes when nobody refers to it any more.

    So a thread that still reads from a file keeps it open, even if the cache has let it go. What is
    read once is read by a system call; from the second time on it is copied out of a mapping, which
    takes half the time or less where the kernel's own copy is slow; where it cannot be mapped, it
    is called for each time. A disk that fails under a mapping ends the process by SIGBUS, as with
    np.memmap; a file that shrank is noticed before.
    """

    __slots__ = ("_array", "_map", "_read_before", "descriptor", "size")

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.descriptor).st_size
        """Bytes, when it was opened."""
        self._read_before = False
        self._map: mmap.mmap | None = None
        self._array: npt.NDArray[np.uint8] | None = None

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def read_into(self, part: npt.NDArray[Any], start: int = 0) -> int:
        """Fill `part` (n,) with the bytes from `start` on; returns how many there were.

        `part` is uint8, or float32: then the bytes are converted on the way.
        """
        array = self.mapped()
        if array is None:
            read = self._call if part.dtype == np.uint8 else self._cast
            return read(part, start)
        found = array[start : start + part.size]
        np.copyto(part[: found.size], found)
        return found.size

    def mapped(self) -> npt.NDArray[np.uint8] | None:
        """All bytes where they lie, from the second time on; none of a file that shrank."""
        if self._array is None and self._read_before and self.size:
            # No descriptor or address left, or a file system without mappings: read by calls.
            with suppress(OSError):
                # Two threads may both map: the later mapping stays, the other goes.
                mapped = mmap.mmap(self.descriptor, self.size, _FLAGS, mmap.PROT_READ)
                self._map, self._array = mapped, np.frombuffer(mapped, np.uint8)
        self._read_before = True
        if self._map is not None and self._map.size() != self.size:
            return self._array[:0] if self._array is not None else None
        return self._array

    def _cast(self, part: npt.NDArray[Any], start: int) -> int:
        """By way of a few bytes that stay in the processor's cache."""
        room, done = np.empty(_PIECE, np.uint8), 0
        while done < part.size:
            piece = room[: part.size - done]
            count = self._call(piece, start + done)
            np.copyto(part[done : done + count], piece[:count])
            done += count
            if count < piece.size:
                break
        return done

    def _call(self, part: npt.NDArray[np.uint8], start: int) -> int:
        view, done = part.data, 0
        while done < len(view):
            count = os.preadv(self.descriptor, [view[done:]], start + done)
            if count == 0:
                break
            done += count
        return done


class OpenFiles:
    """The files that were used last. Safe to use from several threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = Lock()
        self._files: OrderedDict[str, OpenFile] = OrderedDict()

    def __len__(self) -> int:
        """How many are open here."""
        return len(self._files)

    def get(self, path: str) -> OpenFile:
        """The file at `path`, opened now if it is not open yet. Raises OSError."""
        with self._lock:
            file = self._files.get(path)
            if file is not None:
                self._files.move_to_end(path)
                return file
        file = self._opened(path)
        with self._lock:
            self._files[path] = file
            if len(self._files) > self._limit:
                self._files.popitem(last=False)
        return file

    def _opened(self, path: str) -> OpenFile:
        try:
            return OpenFile(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        with self._lock:
            self._files.clear()  # others need descriptors too: do with fewer
        return OpenFile(path)

    def drop(self, path: str) -> None:
        """Open `path` anew when it is asked for again."""
        with self._lock:
            self._files.pop(path, None)
