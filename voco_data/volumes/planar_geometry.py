"""Where a 2D image lies in the patient, and what it covers along the canonical axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes.geometry import (
    CANONICAL_AXES,
    MAX_POSITION_MM,
    ORTHOGONAL_TOLERANCE,
    SPACING_RANGE_MM,
    Triple,
    unit_vector,
)


@dataclass(frozen=True, slots=True)
class AxisExtent:
    """What one index of an image covers along a canonical axis."""

    axis: int
    """0 for z, 1 for y, 2 for x."""
    low_mm: float
    """Lowest LPS coordinate, pixel edges included."""
    high_mm: float
    """Highest LPS coordinate, pixel edges included."""
    reversed: bool
    """Whether the coordinate falls with the index."""


@dataclass(frozen=True, slots=True)
class PlanarGeometry:
    """The pixels of a 2D image in the patient (PS3.3 C.7.6.2.1.1).

    Raises SeriesRefused(BAD_GEOMETRY) for spacings, positions or axes that no image has.
    """

    shape: tuple[int, int]
    """Rows, columns."""
    spacing_mm: tuple[float, float]
    """Distance between rows, distance between columns."""
    position_mm: Triple
    """LPS position of the centre of the first pixel."""
    along_row: Triple
    """LPS direction of the column index, of any length."""
    along_column: Triple
    """LPS direction of the row index, of any length."""

    def __post_init__(self) -> None:
        low, high = SPACING_RANGE_MM
        if not all(low <= spacing <= high for spacing in self.spacing_mm):
            raise SeriesRefused(
                Reason.BAD_GEOMETRY, f"pixels of {self.spacing_mm} mm, expected {low:g} to {high:g}"
            )
        if not all(abs(coordinate) <= MAX_POSITION_MM for coordinate in self.position_mm):
            raise SeriesRefused(Reason.BAD_GEOMETRY, "the position is out of reach")
        cosine = np.dot(unit_vector(self.along_row), unit_vector(self.along_column))
        if not abs(cosine) <= ORTHOGONAL_TOLERANCE:
            raise SeriesRefused(Reason.BAD_GEOMETRY, "rows and columns are not perpendicular")

    def extents(self, tolerance_deg: float) -> tuple[AxisExtent, AxisExtent] | None:
        """What rows and columns cover; None if one is more than `tolerance_deg` off every axis."""
        rows = self._extent(self.along_column, self.shape[0], self.spacing_mm[0], tolerance_deg)
        columns = self._extent(self.along_row, self.shape[1], self.spacing_mm[1], tolerance_deg)
        return None if rows is None or columns is None else (rows, columns)

    def _extent(
        self, direction: Triple, length: int, spacing_mm: float, tolerance_deg: float
    ) -> AxisExtent | None:
        cosines = np.asarray(CANONICAL_AXES) @ unit_vector(direction)
        axis = int(np.abs(cosines).argmax())
        cosine = float(cosines[axis])
        if math.degrees(math.acos(min(1.0, abs(cosine)))) > tolerance_deg:
            return None
        step_mm = spacing_mm * cosine
        first = self.position_mm[2 - axis]
        last = first + (length - 1) * step_mm
        half = abs(step_mm) / 2
        return AxisExtent(axis, min(first, last) - half, max(first, last) + half, cosine < 0)
