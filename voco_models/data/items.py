"""Volumes and slices of stores to train on, as they are stored or reduced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from voco_data.errors import InputError
from voco_data.volumes import Voxel, Voxels
from voco_models.data.volume_view import VolumeView


class VolumeSource(Protocol):
    """The part of `voco_data.store.reader.Store` that loaders of volumes use, from many threads."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""

    @property
    def dtype(self) -> np.dtype[Voxel]:
        """NumPy's type of a stored voxel."""

    def read(self, row: int, out: Voxels | None = None) -> Voxels:
        """The volume at `row`, of type `dtype` (Z, Y, X), into `out` where given."""

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The stored values of the volume at `row`, into `out`, float32 (Z, Y, X)."""


class StoredVolumes(VolumeSource, Protocol):
    """A source of volumes that lists its rows."""

    rows: npt.NDArray[np.int64]
    """int64 (N,): every stored row."""


class SliceSource(Protocol):
    """The part of `voco_data.store.reader.Store` that loaders of slices use, from many threads."""

    rows: npt.NDArray[np.int64]
    """int64 (N,): every stored row."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""

    @property
    def dtype(self) -> np.dtype[Voxel]:
        """NumPy's type of a stored voxel."""

    def view_slice(self, row: int, index: int) -> Voxels:
        """One slice of the volume at `row`, of type `dtype` (Y, X), read-only."""


@dataclass(frozen=True, slots=True)
class Item:
    """One volume of one store."""

    store: VolumeSource
    row: int


def items_of(stores: Iterable[StoredVolumes]) -> list[Item]:
    """Every stored volume, store by store, in row order."""
    return [Item(store, row) for store in stores for row in store.rows.tolist()]


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Torch's name of a NumPy type. Raises TypeError for a type that torch lacks."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def common_layout(
    stores: Iterable[VolumeSource | SliceSource],
) -> tuple[tuple[int, int, int], np.dtype[Voxel]]:
    """Grid (Z, Y, X) and voxel type of the stores. Raises InputError unless all have the same."""
    grids, dtypes = set(), set()
    for store in stores:
        grids.add(store.grid)
        dtypes.add(store.dtype)
    if len(grids) != 1:
        raise InputError(f"expected stores of one grid, got {sorted(grids)}")
    if len(dtypes) != 1:
        raise InputError(f"expected stores of one voxel type, got {sorted(map(str, dtypes))}")
    return grids.pop(), dtypes.pop()


def choose_dtype(dtype: torch.dtype | None, stored: np.dtype[Voxel]) -> torch.dtype:
    """The type of batches: `stored` if None. Raises ValueError unless it is `stored` or float32."""
    own = torch_dtype(stored)
    if dtype not in (None, own, torch.float32):
        raise ValueError(f"dtype must be {stored} or float32, got {dtype}")
    return own if dtype is None else dtype


class ReducedVolumes:
    """A `VolumeSource` of the averaging `view` of volumes, which are kept in memory.

    A volume is read from its source at the first request only.
    """

    def __init__(self, source: VolumeSource, view: VolumeView) -> None:
        self._source = source
        self._view = view
        self._averaged: dict[int, Voxels] = {}

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) after averaging."""
        return self._view.shape

    @property
    def dtype(self) -> np.dtype[Voxel]:
        """NumPy's type of a voxel: that of the source."""
        return self._source.dtype

    def read(self, row: int, out: Voxels | None = None) -> Voxels:
        """The averaged volume at `row`, into `out` where given. Safe to call from threads."""
        volume = self._averaged.get(row)
        if volume is None:
            full = torch.from_numpy(self._source.read(row))
            volume = self._view.make_middle_view(full[None])[0].numpy()
            self._averaged[row] = volume
        if out is None:
            return volume.copy()
        out[...] = volume
        return out

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The same values into `out`, float32 (Z, Y, X)."""
        out[...] = self.read(row)
