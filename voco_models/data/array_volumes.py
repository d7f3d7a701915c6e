"""Volumes in memory as a source for loaders, for images that no store can hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError
from voco_data.volumes import Voxel, Voxels
from voco_models.data.items import Item


class ArrayVolumes:
    """A `VolumeSource` of N volumes in one array (N, Z, Y, X) of bytes."""

    def __init__(self, volumes: npt.NDArray[np.uint8]) -> None:
        """Raises InputError for another type or number of axes, and without volumes."""
        if volumes.dtype != np.uint8 or volumes.ndim != 4 or not len(volumes):
            raise InputError(
                f"volumes: expected uint8 (N, Z, Y, X), got {volumes.dtype} {volumes.shape}"
            )
        self._volumes = np.ascontiguousarray(volumes)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""
        z, y, x = self._volumes.shape[1:]
        return z, y, x

    @property
    def dtype(self) -> np.dtype[Voxel]:
        """NumPy's type of a voxel."""
        return np.dtype(np.uint8)

    def read(self, row: int, out: Voxels | None = None) -> Voxels:
        """The volume at `row`, into `out` where given."""
        if out is None:
            out = np.empty(self.grid, np.uint8)
        out[...] = self._volumes[row]
        return out

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The same values into `out`, float32 (Z, Y, X)."""
        out[...] = self._volumes[row]

    def items(self) -> Sequence[Item]:
        """All volumes, in their order."""
        return [Item(self, row) for row in range(len(self._volumes))]
