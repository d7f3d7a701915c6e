"""The mask of a stored series at full resolution, as its archive has it.

A store keeps no masks, only the boxes and the silhouettes of organs. What is counted in voxels is
counted in masks that are read again from the archive (`voco_data.ingest.ArchiveMasks`). The types
are here, because code that takes such masks need not be able to read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from voco_data.store.record import Record
from voco_data.volumes import Triple


class ProfileBox(NamedTuple):
    """The box of the abdomen from HU alone, without a margin."""

    low_mm: Triple
    """(z, y, x): lowest LPS coordinates."""
    high_mm: Triple
    """(z, y, x): highest LPS coordinates."""
    confidence: float
    """0 to 1; below 0.5 it is a fallback, the box of the whole body."""
    seconds: float
    """Time of the search."""


@dataclass(frozen=True, slots=True)
class ArchiveMask:
    """The mask of a stored series along the canonical axes, before it was cut and resampled."""

    record: Record
    """The series: its `canonical_first_mm` and `spacing_mm` are the grid of `voxels`."""
    voxels: npt.NDArray[np.uint16]
    """Labels (z, y, x), contiguous; 0 is background."""
    labels: Mapping[str, frozenset[int]]
    """The labels of each organ whose place the mask tells; none of an organ that is not there."""
    profile_box: ProfileBox
    on_grid: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Organs on the grid of the store, (Z, Y, X) each; empty unless they were asked for. Their
    projections are the silhouettes in the record."""


class MaskReader(Protocol):
    """What reads masks again."""

    def read(self, rows: Collection[int], *, on_grid: bool = False) -> Iterator[ArchiveMask]:
        """Iterate over the masks of rows of the store, one in memory at a time, in any order.

        A row without a mask is left out. `on_grid` draws the organs on the grid of the store too.
        """
