"""Stored voxels: their type, the map between HU and stored values, and aligned memory.

Stores, the resampler and the export take the type from here; the field `quantisation` of
`voco_data.store.spec` names it in a spec. The loaders of `voco_models.data` expect uint8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Voxel: TypeAlias = np.uint8
"""One stored voxel."""
Voxels: TypeAlias = npt.NDArray[np.uint8]
"""Stored voxels, (Z, Y, X) unless a docstring says otherwise."""
_ALIGNMENT = 64
"""Bytes. Copies into unaligned memory are slower."""
LOWEST_VOXEL, HIGHEST_VOXEL = 0, 255
"""Stored values of the window's lower and upper end, and of HU beyond them."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A window of HU, mapped linearly to LOWEST_VOXEL..HIGHEST_VOXEL, rounded half up, clipped."""

    low_hu: float
    """HU that becomes LOWEST_VOXEL."""
    width_hu: float
    """HU between LOWEST_VOXEL and HIGHEST_VOXEL."""

    @property
    def steps_per_hu(self) -> float:
        """Stored values per HU."""
        return (HIGHEST_VOXEL - LOWEST_VOXEL) / self.width_hu

    def to_hu(self, voxels: Voxels) -> npt.NDArray[np.int16]:
        """HU of stored voxels, of any shape, rounded: `low + v / 255 * width`."""
        values = self.low_hu + np.arange(HIGHEST_VOXEL + 1) / HIGHEST_VOXEL * self.width_hu
        table: npt.NDArray[np.int16] = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
        return table[voxels]


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """`size` uninitialised bytes, uint8 (size,), at an address that is a multiple of 64."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]
