"""Whether parts of slices are one scan: by their positions alone.

Parts may be interleaved (every second slice) or follow each other (halves). Whatever split them, if
their positions complete each other, each part alone would be half a scan.
"""

from __future__ import annotations

from collections.abc import Sequence

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

Positions = npt.NDArray[np.float64]
"""(n, 3) positions of slices, LPS mm."""


def are_one_scan(parts: Sequence[Positions], normal: Triple) -> bool:
    """Whether the slices of all parts together are one scan.

    They are if no two slices share a position, all lie on one straight line, and the distances
    along `normal` are one step, up to missing slices. Parts of a few slices each are one scan
    whatever their distances: nobody scans single slices.
    """
    joined = np.concatenate(parts)
    if len(joined) < MIN_STACK_SLICES or not np.isfinite(joined).all():
        return False
    depths = joined @ np.asarray(normal)
    order = np.argsort(depths)
    joined, depths = joined[order], depths[order]
    gaps = np.diff(depths)
    if gaps.min() < SAME_POSITION_MM or _deviation_mm(joined, depths) > STRAIGHTNESS_MM:
        return False
    are_fragments = np.median([len(part) for part in parts]) < MIN_STACK_SLICES
    return bool(are_fragments) or _are_steps(gaps)


def is_evenly_spaced(depths_mm: npt.NDArray[np.float64]) -> bool:
    """Whether ascending, distinct depths are at least MIN_STACK_SLICES at even distances."""
    if len(depths_mm) < MIN_STACK_SLICES or not np.isfinite(depths_mm).all():
        return False
    try:
        even_positions(depths_mm, SPLIT_POLICY)
    except SeriesRefused:
        return False
    return True


def _are_steps(gaps_mm: npt.NDArray[np.float64]) -> bool:
    """Whether most gaps are one step, and the others a few steps."""
    step = float(np.median(gaps_mm))
    counts = np.rint(gaps_mm / step)
    allowed = max(SPLIT_POLICY.tolerance * step, ROUNDING_MM)
    return bool(
        (np.abs(gaps_mm - counts * step) <= allowed * np.maximum(counts, 1)).all()
        and counts.min() >= 1
        and counts.max() <= MAX_MISSING + 1
        and (counts == 1).mean() >= MIN_EVEN_GAPS
    )


def _deviation_mm(positions: Positions, depths: npt.NDArray[np.float64]) -> float:
    """Largest distance from the line through the first and the last position."""
    along = (positions[-1] - positions[0]) / (depths[-1] - depths[0])
    line = positions[0] + (depths - depths[0])[:, None] * along
    return float(np.linalg.norm(positions - line, axis=1).max())
