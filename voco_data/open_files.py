"""Files that stay open between reads, so many and no more."""

from __future__ import annotations

import os
from collections import OrderedDict
from threading import Lock

LIMIT = 256
"""Descriptors that stay open in a process: a quarter of what a shell usually allows."""


class OpenFile:
    """A file opened for reading. It closes when nobody refers to it any more.

    So a thread that still reads from a file keeps it open, even if the cache has let it go.
    """

    __slots__ = ("descriptor", "size")

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.descriptor).st_size
        """Bytes, when it was opened."""

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def read_into(self, view: memoryview, start: int = 0) -> int:
        """Fill `view` with the bytes from `start` on; returns how many there were."""
        done = 0
        while done < len(view):
            count = os.preadv(self.descriptor, [view[done:] if done else view], start + done)
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
        file = OpenFile(path)
        with self._lock:
            self._files[path] = file
            if len(self._files) > self._limit:
                self._files.popitem(last=False)
        return file

    def drop(self, path: str) -> None:
        """Open `path` anew when it is asked for again."""
        with self._lock:
            self._files.pop(path, None)
