"""Distances between slices: even, uneven or missing, and the interpolation of uneven ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

ROUNDING_MM = 0.11
"""Gaps that differ by less are even: some scanners round positions to 0.1 mm."""

MAX_BRIDGED_MM = 20.0
"""Widest gap in which slices are interpolated."""

NO_INSTANCE = -1
"""Instance number of an interpolated slice."""


@dataclass(frozen=True, slots=True)
class GapPolicy:
    """What to do with a series whose gaps between slices differ."""

    tolerance: float
    """How far a gap may be from the median gap, as a fraction of it."""
    uneven: Literal["refuse", "resample"] = "refuse"
    """Refuse a series with a larger deviation, or interpolate it linearly at even distances."""


@dataclass(frozen=True, slots=True)
class EvenPositions:
    """Even positions along the normal, and the interpolation from the measured ones."""

    measured_mm: npt.NDArray[np.float64]
    """Positions of the slices, ascending."""
    count: int
    """Number of even positions, from the first measured one on."""
    step_mm: float
    """Distance between even positions."""
    resampled: bool
    """Whether slices are interpolated. False if the measured positions count as even."""

    def resample(self, slices: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """`slices` (n measured, rows, columns) at the even positions, (count, rows, columns)."""
        if not self.resampled:
            return slices
        out = np.empty((self.count, *slices.shape[1:]), np.int16)
        for index, (below, weight) in enumerate(zip(*self._weights(), strict=True)):
            out[index] = np.rint(slices[below] * (1.0 - weight) + slices[below + 1] * weight)
        return out

    def resample_instance_numbers(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """`numbers` of the measured slices at the even positions; NO_INSTANCE between slices."""
        if not self.resampled:
            return tuple(numbers)
        distances = np.abs(self._even_mm()[:, None] - self.measured_mm[None, :])
        return tuple(
            numbers[int(row.argmin())] if row.min() < ROUNDING_MM else NO_INSTANCE
            for row in distances
        )

    def _even_mm(self) -> npt.NDArray[np.float64]:
        positions: npt.NDArray[np.float64] = (
            self.measured_mm[0] + np.arange(self.count) * self.step_mm
        )
        return positions

    def _weights(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """For each even position: the measured slice below it, and the weight of the one above."""
        even_mm = self._even_mm()
        below = np.searchsorted(self.measured_mm, even_mm, side="right") - 1
        below = np.clip(below, 0, len(self.measured_mm) - 2)
        gaps = np.diff(self.measured_mm)[below]
        return below, np.clip((even_mm - self.measured_mm[below]) / gaps, 0.0, 1.0)


def even_positions(measured_mm: npt.NDArray[np.float64], policy: GapPolicy) -> EvenPositions:
    """Fit even positions to two or more ascending positions of slices along their normal, in mm.

    Raises SeriesRefused: MISSING_SLICES if a gap is a multiple of the median gap, else
    UNEVEN_SPACING, unless the policy is to resample and no gap is wider than MAX_BRIDGED_MM.
    """
    gaps = np.diff(measured_mm)
    median = float(np.median(gaps))
    deviations = np.abs(gaps - median)
    allowed = max(policy.tolerance * median, ROUNDING_MM)
    length = float(measured_mm[-1] - measured_mm[0])
    step = length / len(gaps)
    # Small deviations add up: each slice must be nearest to its own even position.
    drift = float(np.abs(measured_mm - measured_mm[0] - step * np.arange(len(measured_mm))).max())
    if deviations.max() <= allowed and drift <= step / 2:
        return EvenPositions(measured_mm, len(measured_mm), step, resampled=False)
    worst = float(gaps[deviations.argmax()])
    if policy.uneven == "resample" and gaps.max() <= MAX_BRIDGED_MM:
        count = round(length / median) + 1
        return EvenPositions(measured_mm, count, length / (count - 1), resampled=True)
    if deviations.max() <= allowed:
        raise SeriesRefused(
            Reason.UNEVEN_SPACING, f"slices drift up to {drift:.3f} mm from even positions"
        )
    multiple = round(worst / median)
    missing = multiple >= 2 and abs(worst - multiple * median) <= allowed * multiple
    raise SeriesRefused(
        Reason.MISSING_SLICES if missing else Reason.UNEVEN_SPACING,
        f"a gap of {worst:.3f} mm where {median:.3f} mm is usual",
    )
