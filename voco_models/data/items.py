"""What can be trained on: volumes and slices of stores, as they are or reduced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from voco_data.volumes import Voxels
from voco_models.data.volume_view import average


class VolumeSource(Protocol):
    """What a loader of volumes needs of a `voco_data.store.reader.Store`; several threads read."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""

    def read(self, row: int, out: Voxels | None = None) -> Voxels:
        """The volume at `row`, uint8 (Z, Y, X), into `out` where given."""

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The same values into `out`, float32 (Z, Y, X)."""


class StoredVolumes(VolumeSource, Protocol):
    """A source that knows its rows."""

    rows: npt.NDArray[np.int64]
    """int64 (N,): every stored row."""


class SliceSource(Protocol):
    """What a loader of slices needs of a `voco_data.store.reader.Store`; several threads read."""

    rows: npt.NDArray[np.int64]
    """int64 (N,): every stored row."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""

    def view_slice(self, row: int, index: int) -> Voxels:
        """One slice of the volume at `row`, uint8 (Y, X), to be read only."""


@dataclass(frozen=True, slots=True)
class Item:
    """One volume of one store."""

    store: VolumeSource
    row: int


def items_of(stores: Iterable[StoredVolumes]) -> list[Item]:
    """Every stored volume, store by store, in row order."""
    return [Item(store, row) for store in stores for row in store.rows.tolist()]


class ReducedVolumes:
    """Some volumes of a store, averaged to `shape` and kept in memory: a `VolumeSource`.

    Each volume is read when it is first asked for, and once only.
    """

    def __init__(self, source: VolumeSource, shape: tuple[int, int, int]) -> None:
        self._source = source
        self._shape = shape
        self._kept: dict[int, Voxels] = {}

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) after averaging."""
        return self._shape

    def read(self, row: int, out: Voxels | None = None) -> Voxels:
        """The averaged volume at `row`, into `out` where given. Safe to call from threads."""
        volume = self._kept.get(row)
        if volume is None:
            full = torch.from_numpy(self._source.read(row))
            volume = average(full[None], self._shape)[0].numpy()
            self._kept[row] = volume
        if out is None:
            return volume.copy()
        out[...] = volume
        return out

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The same as float32."""
        out[...] = self.read(row)
