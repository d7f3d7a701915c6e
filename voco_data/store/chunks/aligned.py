"""Memory that begins where copies are fast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """`size` bytes, uint8 (size,), that begin at a multiple of 64."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size]
