"""Boxes of organs in 3D from their coronal and sagittal maps.

A coronal map (Z, X) bounds an organ along z and x, a sagittal map (Z, Y) along z and y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voco_models.localisation.intervals import THRESHOLD, FloatArray, Interval, find_interval

Range = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class OrganBox:
    """The box of an organ in LPS mm."""

    low_mm: Range
    """(z, y, x): lowest coordinates."""
    high_mm: Range
    """(z, y, x): highest coordinates."""
    confidence: float
    """0 to 1: mean probability of the organ's pixels in both maps, times the overlap of the ranges
    along z that the two maps give."""


def find_box(
    coronal: FloatArray, sagittal: FloatArray, low_mm: Range, high_mm: Range
) -> OrganBox | None:
    """The box of an organ; None if one of the maps does not show it.

    `coronal` (Z, X) and `sagittal` (Z, Y) have probabilities. They cover the box of the volume
    between `low_mm` and `high_mm` (z, y, x).
    """
    found = [_bound(map_) for map_ in (coronal, sagittal)]
    if found[0] is None or found[1] is None:
        return None
    (z_coronal, x), (z_sagittal, y) = found[0], found[1]
    z = Interval(
        (z_coronal.low + z_sagittal.low) / 2,
        (z_coronal.high + z_sagittal.high) / 2,
    )
    if not z.low < z.high:  # the maps contradict each other
        return None
    sizes = (coronal.shape[0], sagittal.shape[1], coronal.shape[1])
    steps = [(high - low) / size for low, high, size in zip(low_mm, high_mm, sizes, strict=True)]
    lows = [o + s * i.low for o, s, i in zip(low_mm, steps, (z, y, x), strict=True)]
    highs = [o + s * i.high for o, s, i in zip(low_mm, steps, (z, y, x), strict=True)]
    certainty = np.mean([map_[map_ >= THRESHOLD].mean() for map_ in (coronal, sagittal)])
    return OrganBox(
        (lows[0], lows[1], lows[2]),
        (highs[0], highs[1], highs[2]),
        float(certainty * z_coronal.overlap(z_sagittal)),
    )


def _bound(probabilities: FloatArray) -> tuple[Interval, Interval] | None:
    """The ranges of the organ along both axes of a map (Z, W); None if it is not there."""
    rows = find_interval(probabilities.max(axis=1), probabilities.sum(axis=1))
    if rows is None:
        return None
    # Pixels of other rows are noise.
    start, stop = int(np.floor(rows.low)), int(np.ceil(rows.high))
    inside = probabilities[start:stop]
    columns = find_interval(inside.max(axis=0), inside.sum(axis=0))
    return None if columns is None else (rows, columns)


def join_boxes(boxes: Sequence[OrganBox]) -> OrganBox:
    """The smallest box that contains all `boxes`, with the lowest of their confidences."""
    lows = np.min([box.low_mm for box in boxes], axis=0)
    highs = np.max([box.high_mm for box in boxes], axis=0)
    return OrganBox(
        (float(lows[0]), float(lows[1]), float(lows[2])),
        (float(highs[0]), float(highs[1]), float(highs[2])),
        min(box.confidence for box in boxes),
    )
