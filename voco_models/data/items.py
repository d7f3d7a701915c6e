"""What can be trained on: volumes of stores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


class VolumeSource(Protocol):
    """What the loader needs of a `voco_data.store.reader.Store`. Read from by several threads."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""

    def read(self, row: int, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """The volume at `row`, uint8 (Z, Y, X), into `out` where given."""

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The same values into `out`, float32 (Z, Y, X)."""


class StoredVolumes(VolumeSource, Protocol):
    """A source that knows its rows."""

    rows: npt.NDArray[np.int64]
    """int64 (N,): every stored row."""


@dataclass(frozen=True, slots=True)
class Item:
    """One volume of one store."""

    store: VolumeSource
    row: int


def items_of(stores: Iterable[StoredVolumes]) -> list[Item]:
    """Every stored volume, store by store, in row order."""
    return [Item(store, row) for store in stores for row in store.rows.tolist()]
