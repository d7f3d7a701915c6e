"""The lungs, and the height of the diaphragm under them: the abdomen's upper end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.cropping.body import Body, Coarse, Mask
from voco_data.cropping.components import label

LUNG_MAX_HU = -450
LUNG_MEDIAN_HU = (-960, -550)
"""Gas in the bowel is darker."""
LUNG_MIN_ML = 100.0
"""A connected piece of lung is larger."""
PIXEL_MM = 8.0
"""Lungs are searched on pixels of about this size: finer ones show vessels, not the dome."""
CHEST_SHARE = 0.03
"""In a slice through the chest each lung takes more than this share of the body."""
POSTERIOR_SHARE = 0.2
"""And more than this share of it lies in the posterior half: gas of a supine patient rises."""
BROAD = ndimage.generate_binary_structure(2, 1)
"""Ridges of the lungs' floor that do not hold this cross, of three pixels, are vessels or chest
wall, not a dome."""
CHEST_MM = 260.0
"""Width of both lungs of an adult; the lengths below are for such a chest."""
MEDIAL_MM = 40.0
"""Nearer to the middle than this stand heart and great vessels, not the top of a dome."""
HEART_MM = 60.0
"""The heart reaches this far to the left; the left dome is looked for beyond it, and behind."""
RECESS_MM = 200.0
"""Lung does not reach further below the dome."""
CUT_MM, CUT_SHARE = 15.0, 0.1
"""So much lung at the picture's side, in this share of the chest's slices: the picture cuts it."""
RUN_IN_MM = 12.0
"""So much chest above a dome shows that its top is in the scan."""


@dataclass(frozen=True, slots=True)
class Chest:
    """What the scan shows of the chest, in coarse slices."""

    dome: int | None
    """First slice above the diaphragm's highest dome; None where its top is not in the scan."""
    slices: int
    """How many slices show both lungs."""
    one_sided: int
    """How many slices show one lung only."""
    odd: bool = False
    """Whether lungs reach so far below the dome, or so far out of the picture, that it is none."""


def find_chest(coarse: Coarse, body: Body) -> Chest:
    """Lungs of both sides, and the higher dome of the diaphragm under them.

    Of each column (y, x) the lowest voxel of lung is the floor; vessels and the slope of the
    chest wall make narrow ridges in it, liver and spleen a broad one. The right half shows the
    liver's dome. On the left only what lies lateral and posterior of the heart counts.
    """
    every = max(1, round(PIXEL_MM / coarse.spacing_mm[1]))
    pixel_mm = (coarse.spacing_mm[1] * every, coarse.spacing_mm[2] * every)
    lung = _lung(coarse, body, every)
    middle = _straight(body) / every
    right = np.arange(lung.shape[2]) < middle[:, None]  # (Z, X)
    per_column = lung.sum(axis=1)
    floor_mm2 = CHEST_SHARE * body.area_mm2 / (pixel_mm[0] * pixel_mm[1])
    seen_right = (per_column * right).sum(axis=1) > floor_mm2
    seen_left = (per_column * ~right).sum(axis=1) > floor_mm2
    both, one = seen_right & seen_left, seen_right ^ seen_left
    if not both.any() or not _is_posterior(lung[both], body.row[both] / every):
        cut = _is_cut(coarse, body, slice(None))
        return Chest(None, 0, int(one.sum() + both.sum()), cut)
    dome = _dome(lung, middle, float(np.median(body.row[both])) / every, pixel_mm[1])
    seen = np.flatnonzero(seen_right | seen_left)
    first, last = int(seen[0]), int(seen[-1]) + 1
    if dome < 0 or (last - dome) * coarse.slice_mm < RUN_IN_MM:
        return Chest(None, int(both.sum()), int(one.sum()))
    too_deep = (dome - np.flatnonzero(both)[0]) * coarse.slice_mm > RECESS_MM
    odd = bool(too_deep) or _is_cut(coarse, body, slice(first, last))
    return Chest(dome, int(both.sum()), int(one.sum()), odd)


def _dome(lung: Mask, middle: npt.NDArray[np.float64], half_depth: float, column_mm: float) -> int:
    """Slice of the higher dome; -1 without, the number of slices where it leaves the scan."""
    floor = _floor(lung, middle)
    chest = np.flatnonzero((floor >= 0).any(axis=0))
    size = (chest[-1] - chest[0] + 1) * column_mm / CHEST_MM
    reach = (np.arange(lung.shape[2]) - middle.mean()) * column_mm / size
    behind = np.arange(lung.shape[1])[:, None] > half_depth
    liver = _highest(floor[:, reach < -MEDIAL_MM], len(lung))
    spleen = _highest(np.where(behind, floor, -1)[:, reach > HEART_MM][:, ::-1], len(lung))
    return max(liver, spleen)


def _is_cut(coarse: Coarse, body: Body, chest: slice) -> bool:
    """Whether the picture's side cuts through lung: air between tissue along its border."""
    for column in (0, -1):
        tissue = body.mask[chest, :, column]
        ahead = np.logical_or.accumulate(tissue, axis=1)
        after = np.logical_or.accumulate(tissue[:, ::-1], axis=1)[:, ::-1]
        gap_mm = (ahead & after & ~tissue).sum(axis=1) * coarse.spacing_mm[1]
        if np.mean(gap_mm > CUT_MM) > CUT_SHARE:
            return True
    return False


def _highest(floor: npt.NDArray[np.intp], top: int) -> int:
    """Highest broad place of one lung's floor, its columns ordered from lateral to medial.

    A column without lung, medial of one with lung, stands over a dome that leaves the scan: its
    floor is at `top`, the scan's upper end.
    """
    within = np.logical_or.accumulate(floor >= 0, axis=1)
    known = np.where(within & (floor < 0), top, floor)
    if min(known.shape) < 3:
        return -1
    return int(ndimage.grey_opening(known, footprint=BROAD).max())


def _lung(coarse: Coarse, body: Body, every: int) -> Mask:
    """Large connected pieces of aerated tissue inside the body; every n-th pixel."""
    hu = coarse.hu[:, ::every, ::every]
    pieces, count = label((hu < LUNG_MAX_HU) & body.mask[:, ::every, ::every])
    voxel_ml = coarse.pixel_mm2 * every**2 * coarse.slice_mm / 1000.0
    keep = np.bincount(pieces.ravel(), minlength=count + 1) * voxel_ml >= LUNG_MIN_ML
    keep[0] = False
    low, high = LUNG_MEDIAN_HU
    for piece in np.flatnonzero(keep):
        keep[piece] = low < np.median(hu[pieces == piece]) < high
    return np.asarray(keep[pieces], bool)


def _straight(body: Body) -> npt.NDArray[np.float64]:
    """The body's middle column as a straight line over the slices, shape (Z,)."""
    index = np.arange(len(body.column))
    trunk = body.area_mm2 > 0.5 * body.area_mm2.max()
    if trunk.sum() < 3:
        return np.full(len(index), float(np.median(body.column)))
    slope, start = np.polyfit(index[trunk], body.column[trunk], 1)
    return np.asarray(start + slope * index, np.float64)


def _is_posterior(lung: Mask, rows: npt.NDArray[np.float64]) -> bool:
    behind = np.arange(lung.shape[1]) > rows[:, None]
    per_row = lung.sum(axis=2)
    return bool((per_row * behind).sum() >= POSTERIOR_SHARE * per_row.sum())


def _floor(lung: Mask, middle: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Slice of the lowest lung voxel of each column (Y, X); -1 where there is none.

    Slices are first moved sideways, so that a patient who lies askew stands upright.
    """
    upright = np.zeros_like(lung)
    for index, shift in enumerate(np.rint(middle.mean() - middle).astype(int)):
        upright[index] = np.roll(lung[index], shift, axis=1)
    return np.where(upright.any(axis=0), upright.argmax(axis=0), -1)
