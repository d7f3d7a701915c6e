"""Distances between slices: even enough, missing, or brought to even ones on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

ROUNDING_MM = 0.11
"""Some scanners round positions to 0.1 mm; such gaps are not uneven."""

MAX_BRIDGED_MM = 20.0
"""No policy invents what lies in a gap that is wider than this."""

NO_INSTANCE = -1


@dataclass(frozen=True, slots=True)
class GapPolicy:
    """What to do with gaps between slices that are not alike."""

    tolerance: float
    """How far a gap may be from the median gap, as a fraction of it."""
    uneven: Literal["refuse", "resample"] = "refuse"
    """Refuse such a series, or interpolate it linearly at even distances, flagged."""


@dataclass(frozen=True, slots=True)
class EvenPositions:
    """Even positions along the normal, and how to get there from the measured ones."""

    measured_mm: npt.NDArray[np.float64]
    count: int
    step_mm: float
    resampled: bool

    def resample(self, slices: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """`slices` (measured, rows, columns) at the even positions, (count, rows, columns)."""
        if not self.resampled:
            return slices
        out = np.empty((self.count, *slices.shape[1:]), np.int16)
        for index, (low, share) in enumerate(zip(*self._between(), strict=True)):
            mixed = slices[low] * (1.0 - share) + slices[low + 1] * share
            out[index] = np.rint(mixed)
        return out

    def pick(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Instance numbers at the even positions; NO_INSTANCE where no slice was measured."""
        if not self.resampled:
            return tuple(numbers)
        wanted = self.measured_mm[0] + np.arange(self.count) * self.step_mm
        nearest = np.abs(wanted[:, None] - self.measured_mm[None, :])
        return tuple(
            numbers[int(row.argmin())] if row.min() < ROUNDING_MM else NO_INSTANCE
            for row in nearest
        )

    def _between(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """For each even position: the measured slice below it, and the share of the one above."""
        wanted = self.measured_mm[0] + np.arange(self.count) * self.step_mm
        low = np.searchsorted(self.measured_mm, wanted, side="right") - 1
        low = np.clip(low, 0, len(self.measured_mm) - 2)
        gaps = np.diff(self.measured_mm)[low]
        return low, np.clip((wanted - self.measured_mm[low]) / gaps, 0.0, 1.0)


def even_positions(measured_mm: npt.NDArray[np.float64], policy: GapPolicy) -> EvenPositions:
    """Judge the distances between slices at ascending positions along their normal, in mm.

    There are at least two. Raises SeriesRefused: MISSING_SLICES if a gap is a multiple of the
    usual one, else UNEVEN_SPACING, unless the policy is to resample and no gap is wider than
    MAX_BRIDGED_MM.
    """
    gaps = np.diff(measured_mm)
    usual = float(np.median(gaps))
    off = np.abs(gaps - usual)
    allowed = max(policy.tolerance * usual, ROUNDING_MM)
    length = float(measured_mm[-1] - measured_mm[0])
    step = length / len(gaps)
    # Small errors add up: no slice may lie nearer to its neighbour's place than to its own.
    drift = float(np.abs(measured_mm - measured_mm[0] - step * np.arange(len(measured_mm))).max())
    if off.max() <= allowed and drift <= step / 2:
        return EvenPositions(measured_mm, len(measured_mm), step, resampled=False)
    worst = float(gaps[off.argmax()])
    if policy.uneven == "resample" and gaps.max() <= MAX_BRIDGED_MM:
        count = round(length / usual) + 1
        return EvenPositions(measured_mm, count, length / (count - 1), resampled=True)
    if off.max() <= allowed:
        raise SeriesRefused(
            Reason.UNEVEN_SPACING, f"slices drift up to {drift:.3f} mm from even places"
        )
    multiple = round(worst / usual)
    missing = multiple >= 2 and abs(worst - multiple * usual) <= allowed * multiple
    raise SeriesRefused(
        Reason.MISSING_SLICES if missing else Reason.UNEVEN_SPACING,
        f"a gap of {worst:.3f} mm where {usual:.3f} mm is usual",
    )
