"""The geometry of slices: which of them may be one stack, up to the rounding of their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from voco_data.dicom import Header
from voco_data.volumes import Triple

Geometry = tuple[float, ...]
"""Rows, columns, 1 for a multi-frame file or 0; two spacings (mm); six direction cosines."""


class Tolerance(NamedTuple):
    """How far values of one stack may differ."""

    spacing: float
    """Of pixel spacings, as a fraction."""
    orientation: float
    """Of direction cosines."""


EQUAL = Tolerance(spacing=1e-3, orientation=1e-3)
"""Slices within it are one stack."""

ROUNDED = Tolerance(spacing=1e-2, orientation=2e-2)
"""Values of one scan, rounded in several ways, differ by less: cosines to two decimals by 0.005."""


def geometry_of(header: Header) -> Geometry:
    """The geometry of a slice."""
    multi = header.frames > 1  # a multi-frame file never joins a stack of single slices
    numbers = (*header.spacing_mm, *header.along_row, *header.along_column)
    return (header.rows, header.columns, multi, *(round(n, 6) + 0.0 for n in numbers))


def merge_close_values(values: Sequence[Geometry], tolerance: Tolerance = EQUAL) -> list[Geometry]:
    """Replace each number of each geometry by the lowest one that is equal within tolerance.

    Numbers are equal if, in sorted order, no gap between them exceeds the tolerance. So the result
    depends neither on the order of the files nor on fixed bin edges.
    """
    table = np.array(values, np.float64)
    for column, numbers in enumerate(table.T):
        distinct = np.unique(numbers)
        with np.errstate(over="ignore"):  # hostile headers may contain huge values
            gaps = np.diff(distinct)
        allowed = _allowed(column, tolerance) * _scale(column, distinct[:-1])
        starts = np.concatenate([[True], gaps > allowed])
        lowest = distinct[np.maximum.accumulate(np.where(starts, np.arange(len(distinct)), 0))]
        table[:, column] = lowest[np.searchsorted(distinct, numbers)]
    return [tuple(row) for row in table.tolist()]


def normal_of(geometry: Geometry) -> Triple:
    """The unit normal of a stack; zeros if its two directions are parallel or zero."""
    a, b, c, d, e, f = geometry[5:]
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.hypot(x, y, z)
    if not 0 < length < math.inf:
        return (0.0, 0.0, 0.0)
    return (x / length, y / length, z / length)


def _allowed(column: int, tolerance: Tolerance) -> float:
    return (0.0, *tolerance)[(column >= 3) + (column >= 5)]


def _scale(column: int, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Factors of the tolerance: it is relative for spacings, and absolute for all other values."""
    return np.abs(values) if 3 <= column < 5 else np.ones_like(values)
