"""Memory for volumes: one large array a thread that is used again, and aligned bytes.

Fresh pages are slow to get, and copies into memory that is not aligned are slow.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64
LARGEST_KEPT = 2**28
"""Bytes. Larger volumes get memory of their own, and nothing of it is kept."""
_REFERENCES = 3
"""To a buffer that nobody uses: the arena's, a variable here, and the argument of the count."""


class ReusedBuffer:
    """Lends int16 arrays. What it lent is never lent again while anything refers to it."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.int16)

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.int16]:
        """An array of `shape` with anything in it."""
        size = math.prod(shape)
        if size * 2 > LARGEST_KEPT:
            return np.empty(shape, np.int16)
        buffer = self._buffer
        # Every view of an array refers to the array that owns the memory, not to another view.
        if buffer.size < size or sys.getrefcount(buffer) > _REFERENCES:
            buffer = self._buffer = np.empty(size, np.int16)
        return buffer[:size].reshape(shape)


_of_thread = threading.local()


def reused_buffer() -> ReusedBuffer:
    """The arena of this thread."""
    if not hasattr(_of_thread, "arena"):
        _of_thread.arena = ReusedBuffer()
    found: ReusedBuffer = _of_thread.arena
    return found


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """`size` uninitialised bytes, uint8 (size,), at an address that is a multiple of 64."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size]
