"""How many voxels of an organ a box keeps, counted in masks at full resolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voco_data.store import ArchiveMask
from voco_models.localisation.boxes import Range


class OrganVoxels:
    """The voxels of an organ in a mask. Boxes are as `voco preprocess --boxes` takes them."""

    def __init__(self, mask: ArchiveMask, organ: str) -> None:
        """`organ` is one that the mask shows."""
        record = mask.record
        self._spacing_mm = np.array(record.spacing_mm)
        self._edge_mm = np.array(record.canonical_first_mm) - self._spacing_mm / 2
        start, stop = (self._to_index(ends).astype(int) for ends in record.organs[organ])
        self._start = start
        inside = mask.voxels[tuple(map(slice, start.tolist(), stop.tolist()))]
        self._voxels = np.isin(inside, list(mask.labels[organ]))

    @property
    def count(self) -> int:
        """All voxels of the organ."""
        return int(self._voxels.sum())

    def count_in(self, low_mm: Range, high_mm: Range) -> int:
        """Voxels of the organ in a box of LPS mm (z, y, x): those that it covers at least half.

        A NaN leaves the box open on this side.
        """
        sizes = self._voxels.shape
        low, high = (self._to_index(ends) - self._start for ends in (low_mm, high_mm))
        start = np.where(np.isnan(low), 0, np.clip(low, 0, sizes)).astype(int)
        stop = np.where(np.isnan(high), sizes, np.clip(high, start, sizes)).astype(int)
        return int(self._voxels[tuple(map(slice, start.tolist(), stop.tolist()))].sum())

    def _to_index(self, ends_mm: Range) -> npt.NDArray[np.float64]:
        """The number of the voxel that begins nearest to each of `ends_mm`; NaN stays."""
        index: npt.NDArray[np.float64] = np.rint((ends_mm - self._edge_mm) / self._spacing_mm)
        return index
