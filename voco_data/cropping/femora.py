"""The two femora in a slice through the thighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy import ndimage

from voco_data.cropping.body import Coarse, Mask

FEMUR_MM2 = 60.0
"""Least area of a femur's bone."""
FEMUR_WIDTH_MM = 75.0
"""A wider piece is no femur."""
BESIDE_MM, OTHER_SHARE = 45.0, 0.3
"""No other bone of this share of a femur's area is so near to it; a hand is further out."""
APART_MM = 45.0
"""The femora's inner edges are further apart, even in a small child."""


@dataclass(frozen=True, slots=True)
class Femora:
    """The right and the left femur in a slice, in pixels."""

    inner: tuple[int, int]
    """Columns of their inner edges."""
    row: tuple[float, float]
    """Rows of their middles."""


def find_femora(bone: Mask, middle: int, coarse: Coarse) -> Femora | None:
    """The one piece of bone (Y, X) on each side of column `middle`; None where it is no femur."""
    column_mm = coarse.spacing_mm[2]
    near = round(BESIDE_MM / column_mm)
    pieces, _ = ndimage.label(bone)
    inner, rows = [], []
    for half, offset in ((pieces[:, :middle], 0), (pieces[:, middle:], middle)):
        areas = np.bincount(half.ravel(), minlength=2)
        areas[0] = 0
        femur = half == areas.argmax()
        area = int(areas.max())
        if area * coarse.pixel_mm2 < FEMUR_MM2:
            return None
        columns = np.flatnonzero(femur.any(axis=0))
        first, last = int(columns[0]), int(columns[-1])
        if (last - first + 1) * column_mm > FEMUR_WIDTH_MM:
            return None
        beside = np.bincount(half[:, max(0, first - near) : last + near + 1].ravel())[1:]
        if np.count_nonzero(beside > OTHER_SHARE * area) > 1:
            return None
        inner.append((first if offset else last) + offset)
        rows.append(float(femur.sum(axis=1) @ np.arange(len(femur))) / area)
    if (inner[1] - inner[0]) * column_mm < APART_MM:
        return None
    return Femora((inner[0], inner[1]), (rows[0], rows[1]))


def typical(femora: Sequence[Femora]) -> Femora:
    """The median of several slices: noise may break a femur's ring in one or two."""
    right, left = (round(median(f.inner[side] for f in femora)) for side in (0, 1))
    right_row, left_row = (median(f.row[side] for f in femora) for side in (0, 1))
    return Femora((right, left), (right_row, left_row))
