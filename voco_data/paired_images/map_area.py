"""The area of a map in the patient, and images brought to it by area averages.

A pixel of a map is the mean of the image over the pixel's area, with fractions of image pixels. An
image pixel counts as constant, so the mean of a whole image is kept exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voco_data.store import Store

Plane = Literal["coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("coronal", "sagittal")
COLUMN_AXES: dict[Plane, int] = {"coronal": 2, "sagittal": 1}
"""Axis of volumes (z, y, x) along the columns of a map; the rows are along z."""
ROUNDING = 1e-6
"""Share of a pixel that may be missing by rounding alone."""

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Interval = tuple[float, float]
"""Low and high end."""


@dataclass(frozen=True, slots=True)
class MapArea:
    """The area of the map of one series in one plane."""

    plane: Plane
    shape: tuple[int, int]
    """Pixels along z and along the columns."""
    rows_mm: Interval
    """Lowest and highest LPS coordinate along z."""
    columns_mm: Interval
    """Lowest and highest LPS coordinate along x (coronal) or y (sagittal)."""

    @classmethod
    def of_series(cls, store: Store, line: Mapping[str, Any], plane: Plane) -> MapArea:
        """The map of a series; `line` is its line of the catalogue of `store`."""
        axis = COLUMN_AXES[plane]
        return cls(
            plane=plane,
            shape=(store.grid[0], store.grid[axis]),
            rows_mm=(line["box_z_low_mm"], line["box_z_high_mm"]),
            columns_mm=(line[f"box_{'zyx'[axis]}_low_mm"], line[f"box_{'zyx'[axis]}_high_mm"]),
        )

    @property
    def size_mm(self) -> tuple[float, float]:
        """Length along z and along the columns."""
        return self.rows_mm[1] - self.rows_mm[0], self.columns_mm[1] - self.columns_mm[0]

    def share_in(self, other: MapArea) -> float:
        """The share of this area that another one covers."""
        return _share(self.rows_mm, other.rows_mm) * _share(self.columns_mm, other.columns_mm)


def _share(wanted: Interval, given: Interval) -> float:
    overlap = min(wanted[1], given[1]) - max(wanted[0], given[0])
    return max(overlap, 0.0) / (wanted[1] - wanted[0])


@dataclass(frozen=True, slots=True)
class MapImage:
    """An image on a map, whose index grows along z and along the columns as in the store."""

    values: Floats
    """(Z, columns); 0 where not valid."""
    is_valid: Bits
    """(Z, columns): whether measured pixels of the image cover the whole pixel."""

    @property
    def coverage(self) -> float:
        """Share of the map that is valid."""
        return float(self.is_valid.mean())


def average_onto(
    area: MapArea, values: Floats, is_measured: Bits, rows_mm: Interval, columns_mm: Interval
) -> MapImage:
    """An image on the map `area`.

    `values` and `is_measured` are (rows, columns), with coordinates that grow with the index.
    `rows_mm` and `columns_mm` are what they cover, in LPS mm, pixel edges included.
    """
    along_rows = overlap_shares(rows_mm, values.shape[0], area.rows_mm, area.shape[0])
    along_columns = overlap_shares(columns_mm, values.shape[1], area.columns_mm, area.shape[1])
    measured = along_rows @ is_measured.astype(np.float64) @ along_columns.T
    sums = along_rows @ np.where(is_measured, values, 0.0) @ along_columns.T
    is_valid = measured >= 1 - ROUNDING
    return MapImage(np.where(is_valid, sums / np.where(is_valid, measured, 1.0), 0.0), is_valid)


def overlap_shares(given: Interval, n_given: int, wanted: Interval, n_wanted: int) -> Floats:
    """(n_wanted, n_given): the share of each wanted interval that each given interval covers.

    Both divide a range into equal intervals. A row sums to 1 where the given range covers the
    interval wholly, and to less where it does not.
    """
    have = np.linspace(*given, n_given + 1)
    want = np.linspace(*wanted, n_wanted + 1)
    low = np.maximum(have[None, :-1], want[:-1, None])
    high = np.minimum(have[None, 1:], want[1:, None])
    shares: Floats = np.maximum(high - low, 0.0) / (want[1:] - want[:-1])[:, None]
    return shares
