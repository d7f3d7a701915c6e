"""Memory of the CPU that a step frees stays with the process, for the next step."""

from __future__ import annotations

import ctypes

import torch

# Parameters of mallopt(3), from malloc.h of the GNU C library.
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_MAX = -4

TOP_PAD_BYTES = 256 * 2**20
"""Memory that is requested from the system at once."""


def keep_freed_memory(device: torch.device) -> bool:
    """Let this process keep memory that it frees, if it trains on the CPU. Nothing else changes.

    A step allocates and frees the same large tensors as the one before. By default, the GNU C
    library returns them to the system, which then clears every page again: tens of thousands of
    page faults a step, in one thread. Returns whether the library took the settings: not on a GPU,
    and not with another C library.
    """
    if device.type != "cpu":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, TOP_PAD_BYTES))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
