"""Where an organ begins and ends along an axis of its map.

A map (U, W) has the probability that a line through the volume meets the organ. Pixel i of an axis
spans from i to i + 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

THRESHOLD = 0.4
"""Probability from which a pixel is of the organ. Below one half, because networks draw organs a
little too small: with 0.5, the faces of made-up organs were found 2 mm inside of the true ones."""
SMALLEST_PART = 0.1
"""A part of an organ that is apart from its largest one has at least this fraction of its sum."""


class Interval(NamedTuple):
    """A range of an axis, in pixels."""

    low: float
    high: float

    def overlap(self, other: Interval) -> float:
        """Length of the intersection over that of the union; 0 if they do not meet."""
        shared = min(self.high, other.high) - max(self.low, other.low)
        whole = max(self.high, other.high) - min(self.low, other.low)
        return max(shared, 0.0) / whole if whole > 0 else 0.0


def find_interval(profile: FloatArray, weights: FloatArray) -> Interval | None:
    """The range of an axis in which an organ is; None if it is nowhere.

    `profile` (n,) are the highest probabilities of the rows across the axis, and `weights` (n,)
    their sums. Runs of rows from `THRESHOLD` on are parts of the organ; those with less than
    `SMALLEST_PART` of the weight of the heaviest one are taken for noise.
    """
    runs = _find_runs(profile >= THRESHOLD)
    if not runs:
        return None
    sums = np.array([weights[start:stop].sum() for start, stop in runs])
    kept = [
        run for run, total in zip(runs, sums, strict=True) if total >= SMALLEST_PART * sums.max()
    ]
    start, stop, size = kept[0][0], kept[-1][1], len(profile)
    low, high = _lower_end(profile, start), size - _lower_end(profile[::-1], size - stop)
    if high - low < 1:  # an organ of one pixel, or of a part of it
        middle = (low + high) / 2
        return Interval(middle - 0.5, middle + 0.5)
    return Interval(low, high)


def _find_runs(is_inside: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and stop of each run of true values."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], is_inside, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in changes.reshape(-1, 2)]


def _lower_end(profile: FloatArray, first: int) -> float:
    """Where the organ begins, if `first` is its first pixel.

    A pixel is marked if any voxel in it is of the organ. So an end lies anywhere in the last marked
    pixel, and half a pixel inside of its edge on average. The edge is where the profile crosses the
    threshold, by linear interpolation between the middles of pixels. At the end of the axis the
    organ may go on, and the end is that of the axis.
    """
    if first == 0:
        return 0.0
    below, above = profile[first - 1], profile[first]
    crossing = first - 0.5 + (THRESHOLD - below) / (above - below)  # between the two middles
    return float(crossing + 0.5)
