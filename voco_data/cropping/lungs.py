"""The lungs, and the height of the diaphragm under them: the abdomen's upper end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.cropping.body import Body, CoarseVolume, Mask
from voco_data.cropping.components import label_components

LUNG_MAX_HU = -450
LUNG_MEDIAN_HU = (-960, -550)
"""Gas in the bowel is darker."""
LUNG_MIN_ML = 100.0
"""Least volume of a connected component of lung."""
PIXEL_MM = 8.0
"""Lungs are searched on pixels of about this size: finer ones show vessels, not the dome."""
CHEST_SHARE = 0.03
"""In a slice through the chest each lung takes more than this share of the body."""
POSTERIOR_SHARE = 0.2
"""More than this share of the lungs is in the posterior half; bowel gas is in the anterior one."""
DOME_FOOTPRINT = ndimage.generate_binary_structure(2, 1)
"""A cross of three pixels. Ridges of the lungs' floor that cannot hold it are vessels or chest
wall, not a dome."""
CHEST_MM = 260.0
"""Width of both lungs of an adult; the lengths below are for such a chest."""
MEDIAL_MM = 40.0
"""Heart and great vessels are nearer to the middle than this, the top of a dome is not."""
HEART_MM = 60.0
"""The heart reaches this far to the left. The left dome is searched beyond it and behind it."""
RECESS_MM = 200.0
"""Largest depth of lung below the dome."""
CUT_MM, CUT_SHARE = 15.0, 0.1
"""Extent of lung at the border, and share of slices with it, at which the image cuts the lung."""
ABOVE_DOME_MM = 12.0
"""Least extent of chest above a dome for the top of the dome to be in the scan."""


@dataclass(frozen=True, slots=True)
class Chest:
    """The part of the chest that the scan shows, in coarse slices."""

    dome: int | None
    """First slice above the diaphragm's highest dome; None where its top is not in the scan."""
    slices: int
    """Number of slices with both lungs."""
    one_sided: int
    """Number of slices with one lung only."""
    implausible: bool = False
    """Whether the lungs reach too far below the dome or out of the image for a chest."""


def find_chest(coarse: CoarseVolume, body: Body) -> Chest:
    """The lungs of both sides, and the higher dome of the diaphragm under them.

    The floor of a column (y, x) is its lowest voxel of lung. Vessels and the slope of the chest
    wall make narrow ridges in the floor, liver and spleen a broad one. The right dome is that over
    the liver; on the left only columns lateral and posterior of the heart count.
    """
    stride = max(1, round(PIXEL_MM / coarse.spacing_mm[1]))
    pixel_mm = (coarse.spacing_mm[1] * stride, coarse.spacing_mm[2] * stride)
    lung = _lung_mask(coarse, body, stride)
    middle = _fitted_middle(body) / stride
    right = np.arange(lung.shape[2]) < middle[:, None]  # (Z, X)
    per_column = lung.sum(axis=1)
    min_pixels = CHEST_SHARE * body.area_mm2 / (pixel_mm[0] * pixel_mm[1])
    has_right = (per_column * right).sum(axis=1) > min_pixels
    has_left = (per_column * ~right).sum(axis=1) > min_pixels
    both, one = has_right & has_left, has_right ^ has_left
    if not both.any() or not _is_posterior(lung[both], body.row[both] / stride):
        is_cut = _cuts_lung(coarse, body, slice(None))
        return Chest(None, 0, int(one.sum() + both.sum()), is_cut)
    dome = _find_dome(lung, middle, float(np.median(body.row[both])) / stride, pixel_mm[1])
    with_lung = np.flatnonzero(has_right | has_left)
    first, last = int(with_lung[0]), int(with_lung[-1]) + 1
    if dome < 0 or (last - dome) * coarse.slice_mm < ABOVE_DOME_MM:
        return Chest(None, int(both.sum()), int(one.sum()))
    too_deep = (dome - np.flatnonzero(both)[0]) * coarse.slice_mm > RECESS_MM
    implausible = bool(too_deep) or _cuts_lung(coarse, body, slice(first, last))
    return Chest(dome, int(both.sum()), int(one.sum()), implausible)


def _find_dome(
    lung: Mask, middle: npt.NDArray[np.float64], half_depth: float, column_mm: float
) -> int:
    """Slice of the higher dome: -1 without one, len(lung) where its top is above the scan."""
    floor = _lung_floor(lung, middle)
    chest = np.flatnonzero((floor >= 0).any(axis=0))
    scale = (chest[-1] - chest[0] + 1) * column_mm / CHEST_MM
    left_mm = (np.arange(lung.shape[2]) - middle.mean()) * column_mm / scale
    behind = np.arange(lung.shape[1])[:, None] > half_depth
    liver_dome = _highest_ridge(floor[:, left_mm < -MEDIAL_MM], len(lung))
    spleen_dome = _highest_ridge(
        np.where(behind, floor, -1)[:, left_mm > HEART_MM][:, ::-1], len(lung)
    )
    return max(liver_dome, spleen_dome)


def _cuts_lung(coarse: CoarseVolume, body: Body, chest: slice) -> bool:
    """Whether the image's left or right border cuts through lung: air between tissue along it."""
    for column in (0, -1):
        tissue = body.mask[chest, :, column]
        tissue_in_front = np.logical_or.accumulate(tissue, axis=1)
        tissue_behind = np.logical_or.accumulate(tissue[:, ::-1], axis=1)[:, ::-1]
        gap_mm = (tissue_in_front & tissue_behind & ~tissue).sum(axis=1) * coarse.spacing_mm[1]
        if np.mean(gap_mm > CUT_MM) > CUT_SHARE:
            return True
    return False


def _highest_ridge(floor: npt.NDArray[np.intp], top: int) -> int:
    """Highest broad ridge of one lung's floor, its columns ordered from lateral to medial.

    A column without lung, medial of one with lung, is over a dome whose top is above the scan: its
    floor is `top`, the scan's upper end.
    """
    within = np.logical_or.accumulate(floor >= 0, axis=1)
    completed = np.where(within & (floor < 0), top, floor)
    if min(completed.shape) < 3:
        return -1
    return int(ndimage.grey_opening(completed, footprint=DOME_FOOTPRINT).max())


def _lung_mask(coarse: CoarseVolume, body: Body, stride: int) -> Mask:
    """Large connected components of aerated tissue in the body, on every `stride`-th pixel."""
    hu = coarse.hu[:, ::stride, ::stride]
    components, count = label_components((hu < LUNG_MAX_HU) & body.mask[:, ::stride, ::stride])
    voxel_ml = coarse.pixel_mm2 * stride**2 * coarse.slice_mm / 1000.0
    keep = np.bincount(components.ravel(), minlength=count + 1) * voxel_ml >= LUNG_MIN_ML
    keep[0] = False
    low, high = LUNG_MEDIAN_HU
    for number in np.flatnonzero(keep):
        keep[number] = low < np.median(hu[components == number]) < high
    return np.asarray(keep[components], bool)


def _fitted_middle(body: Body) -> npt.NDArray[np.float64]:
    """The body's middle column, fitted by a straight line over the slices, shape (Z,)."""
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


def _lung_floor(lung: Mask, middle: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Slice of the lowest lung voxel of each column (Y, X); -1 where there is none.

    Slices are first shifted sideways, so that the middle of a rotated patient is one column.
    """
    upright = np.zeros_like(lung)
    for index, shift in enumerate(np.rint(middle.mean() - middle).astype(int)):
        upright[index] = np.roll(lung[index], shift, axis=1)
    return np.where(upright.any(axis=0), upright.argmax(axis=0), -1)
