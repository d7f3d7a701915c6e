"""Stored voxels: their type, the map between HU and stored values, and aligned memory.

`VoxelType` lists the types that a store may have. A spec records one of them in its field
`quantisation`. All other code takes the type from `StoreSpec.dtype`, `Store.dtype` or an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

VoxelType = Literal["uint8"]
"""NumPy's names of the types that a stored voxel may have; integers."""
VOXEL_TYPE: VoxelType = "uint8"
"""The type in a spec that names none."""
Voxel: TypeAlias = np.uint8
"""Any of these types, for the type checker."""
Voxels: TypeAlias = npt.NDArray[Voxel]
"""Stored voxels, (Z, Y, X) unless a docstring says otherwise."""
_ALIGNMENT = 64
"""Bytes. Copies into memory that is not aligned are slow."""
_HU_RANGE = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A window of HU on the values of `dtype`, linear, rounded half up, clipped at its ends."""

    low_hu: float
    """HU that becomes `lowest`."""
    width_hu: float
    """HU between `lowest` and `highest`."""
    dtype: np.dtype[Voxel]
    """Type of a stored voxel, an integer."""

    @property
    def lowest(self) -> int:
        """Stored value of the window's low end, and of all HU below it."""
        return int(np.iinfo(self.dtype).min)

    @property
    def highest(self) -> int:
        """Stored value of the window's high end, and of all HU above it."""
        return int(np.iinfo(self.dtype).max)

    @property
    def steps_per_hu(self) -> float:
        """Stored values per HU."""
        return (self.highest - self.lowest) / self.width_hu

    def to_hu(self, voxels: Voxels) -> npt.NDArray[np.int16]:
        """int16 HU of stored voxels, rounded: `low_hu + step / steps * width_hu`.

        `step` counts stored values from `lowest`, and `steps` is `highest - lowest`.
        """
        steps = self.highest - self.lowest
        values = self.low_hu + np.arange(steps + 1) / steps * self.width_hu
        clipped = np.clip(np.rint(values), _HU_RANGE.min, _HU_RANGE.max)
        hu_of_step: npt.NDArray[np.int16] = clipped.astype(np.int16)
        return hu_of_step[np.subtract(voxels, self.lowest, dtype=np.intp)]


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """`size` uninitialised bytes, uint8 (size,), at an address that is a multiple of 64."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An uninitialised array, C-contiguous, at an address that is a multiple of 64."""
    return aligned_bytes(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
