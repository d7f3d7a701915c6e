"""Whether slices are one scan: by their positions, and by their thickness.

Slices are one scan if no two share a position, all lie on one straight line, and their distances
are even, up to missing slices. Two scans half a step apart pass this test too. So slices that
something divides into interleaved stacks may be several scans. Their numbers (InstanceNumber)
decide first: they ascend or descend along one scan, and begin anew in the next. Where numbers do
not tell, thickness does: slices as thick as their common distance are one scan, because each stack
alone would have gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.volumes import ROUNDING_MM, GapPolicy, Triple, even_positions

MIN_STACK_SLICES = 4
"""Least slices of an evenly spaced part; fewer may be evenly spaced by chance."""

SPLIT_POLICY = GapPolicy(tolerance=0.05)
"""Which parts count as evenly spaced."""

SAME_POSITION_MM = 0.01
"""Slices that are closer along the normal have one position."""

STRAIGHTNESS_MM = 1.0
"""Largest distance of a slice of one scan from the line through its first and last slice."""

MIN_EVEN_GAPS = 0.8
"""Least share of the gaps of one scan that are one step; slices may be missing."""

MAX_MISSING = 3
"""Most slices that may be missing in a row."""

CONTIGUOUS = (0.9, 1.5)
"""Thickness of slices without gaps, as a multiple of their distance; below 2, two steps apart."""

MIN_THINNING = 0.75
"""Stacks with missing slices are interleaved if their common distance is below this share of
their own: otherwise one fills the gaps of the other."""

Positions = npt.NDArray[np.float64]
"""(n, 3) positions of slices, LPS mm."""

Depths = npt.NDArray[np.float64]
"""(n,) positions along the normal, ascending, mm."""

Numbers = npt.NDArray[np.int64]
"""(n,) InstanceNumber of slices; -1 if it is missing."""


class Thickness(NamedTuple):
    """Range of the SliceThickness of slices, mm. All of them must have a value."""

    least: float
    most: float


def run_through(numbers: Numbers, depths: Depths) -> bool:
    """Whether the numbers of slices ascend or descend along the normal. False if one is unknown."""
    steps = np.diff(numbers[np.argsort(depths)])
    return bool(numbers.min() >= 0 and ((steps > 0).all() or (steps < 0).all()))


def begin_anew(parts: Sequence[Numbers]) -> bool:
    """Whether the numbers of one part are those of another: most of the shorter one of two."""
    for one, other in combinations(parts, 2):
        n_shared = len(np.intersect1d(one[one >= 0], other[other >= 0]))
        if 2 * n_shared > min(len(one), len(other)):
            return True
    return False


def are_one_scan(parts: Sequence[Positions], normal: Triple) -> bool:
    """Whether the slices of all parts together are one scan, by their positions.

    Parts of a few slices each are one scan whatever their distances: nobody scans single slices.
    """
    joined = np.concatenate(parts)
    if len(joined) < MIN_STACK_SLICES or not np.isfinite(joined).all():
        return False
    depths = joined @ np.asarray(normal)
    order = np.argsort(depths)
    joined, depths = joined[order], depths[order]
    if np.diff(depths).min() < SAME_POSITION_MM or _deviation_mm(joined, depths) > STRAIGHTNESS_MM:
        return False
    are_fragments = np.median([len(part) for part in parts]) < MIN_STACK_SLICES
    return bool(are_fragments) or has_even_steps(depths)


def is_evenly_spaced(depths_mm: Depths) -> bool:
    """Whether distinct depths are at least MIN_STACK_SLICES at even distances."""
    if len(depths_mm) < MIN_STACK_SLICES or not np.isfinite(depths_mm).all():
        return False
    try:
        even_positions(depths_mm, SPLIT_POLICY)
    except SeriesRefused:
        return False
    return True


def has_even_steps(depths_mm: Depths) -> bool:
    """Whether most gaps between distinct depths are one step, and the others a few steps."""
    gaps_mm = np.diff(depths_mm)
    step = float(np.median(gaps_mm))
    counts = np.rint(gaps_mm / step)
    allowed = max(SPLIT_POLICY.tolerance * step, ROUNDING_MM)
    return bool(
        (np.abs(gaps_mm - counts * step) <= allowed * np.maximum(counts, 1)).all()
        and counts.min() >= 1
        and counts.max() <= MAX_MISSING + 1
        and (counts == 1).mean() >= MIN_EVEN_GAPS
    )


def are_interleaved_scans(
    parts: Sequence[Depths], thickness: Thickness | None, *, are_numbered: bool, if_unknown: bool
) -> bool:
    """Whether slices are several scans, one between the other, because `parts` are.

    Two parts are interleaved if both are evenly spaced, and they share at least half of the range
    of the shorter one. They are several scans if their numbers say so (`are_numbered`). They are
    one scan if all slices are evenly spaced, and as thick as their distance. They are several if
    the slices are at least as thick as the distance within the parts. If the thickness decides
    neither, the answer is `if_unknown`.
    """
    stacks = [part for part in parts if len(part) >= MIN_STACK_SLICES]
    steps = [
        max(float(np.median(np.diff(a))), float(np.median(np.diff(b))))
        for a, b in combinations(sorted(stacks, key=lambda part: float(part[0])), 2)
        if b[0] < a[-1] and _are_interleaved(a, b)
    ]
    if not steps:
        return False
    if are_numbered:
        return True
    if thickness is not None:
        joined = np.sort(np.concatenate(parts))
        step = float(np.median(np.diff(joined)))
        low, high = CONTIGUOUS
        is_contiguous = low * step <= thickness.least and thickness.most <= high * step
        if is_contiguous and has_even_steps(joined):
            return False
        if thickness.least >= low * max(steps):
            return True
    return if_unknown


def _are_interleaved(one: Depths, other: Depths) -> bool:
    """Whether two stacks lie one between the other. `one` begins first."""
    low, high = float(other[0]), min(float(one[-1]), float(other[-1]))
    if 2 * (high - low) < min(one[-1] - one[0], other[-1] - other[0]):
        return False
    if is_evenly_spaced(one) and is_evenly_spaced(other):
        return True
    if not (has_even_steps(one) and has_even_steps(other)):
        return False
    shared = np.sort(np.concatenate([one, other]))
    shared = shared[(shared >= low) & (shared <= high)]
    step = min(float(np.median(np.diff(one))), float(np.median(np.diff(other))))
    return len(shared) > 1 and float(np.diff(shared).mean()) < MIN_THINNING * step


def _deviation_mm(positions: Positions, depths: Depths) -> float:
    """Largest distance from the line through the first and the last position."""
    along = (positions[-1] - positions[0]) / (depths[-1] - depths[0])
    line = positions[0] + (depths - depths[0])[:, None] * along
    return float(np.linalg.norm(positions - line, axis=1).max())
