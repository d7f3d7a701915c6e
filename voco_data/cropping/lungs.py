"""The lungs, and the height of the diaphragm under them: the abdomen's upper end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.cropping.body import Body
from voco_data.cropping.components import label_components
from voco_data.cropping.sampling import CoarseVolume, Mask

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
RECESS_PERCENTILE = 5
"""This part of a lung's columns may reach lower than its depth."""
RECESS_MM = 200.0
"""Largest depth of lung below the dome."""
LUNG_COLUMN_PIXELS = 3
"""Columns of fewer pixels of lung, from front to back, say nothing of the back of the chest."""
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
    domes: tuple[int, int] = (-1, -1)
    """The same slice as `dome` for the right and the left half; -1 where it was not found."""
    either_dome: int = -1
    """The lower of two results: `max(domes)`, and the same with right and left exchanged."""
    recesses: tuple[float, float] = (0.0, 0.0)
    """Depth of the right and the left lung below its own dome, in slices."""
    depth_at_back: float = np.inf
    """Depth of the right lung below its own dome, at its back, in slices."""
    share: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Share of lung in the body of each slice, shape (Z,)."""
    lung_pixels: npt.NDArray[np.intp] = field(default_factory=lambda: np.zeros((2, 0), np.intp))
    """Pixels of lung in the right and the left half of each slice, shape (2, Z)."""


def find_chest(coarse: CoarseVolume, body: Body) -> Chest:
    """The lungs of both sides, and the higher dome of the diaphragm under them.

    The floor of a column (y, x) is its lowest voxel of lung. Vessels and the slope of the chest
    wall make narrow ridges in the floor, liver and spleen a broad one. The right dome is that over
    the liver; on the left only columns lateral and posterior of the heart count.
    """
    stride = max(1, round(PIXEL_MM / coarse.spacing_mm[1]))
    pixel_mm = (coarse.spacing_mm[1] * stride, coarse.spacing_mm[2] * stride)
    lung = _lung_mask(coarse, body, stride)
    middle = fitted_middle(body) / stride
    right = np.arange(lung.shape[2]) < middle[:, None]  # (Z, X)
    per_column = lung.sum(axis=1)
    min_pixels = CHEST_SHARE * body.area_mm2 / (pixel_mm[0] * pixel_mm[1])
    pixels = np.stack([(per_column * half).sum(axis=1) for half in (right, ~right)])
    has_right, has_left = pixels > min_pixels
    lung_mm2 = pixels.sum(axis=0) * pixel_mm[0] * pixel_mm[1]
    share = np.where(has_right | has_left, lung_mm2 / np.maximum(body.area_mm2, 1.0), 0.0)
    both, one = has_right & has_left, has_right ^ has_left
    if not both.any() or not _is_posterior(lung[both], body.row[both] / stride):
        is_cut = _cuts_lung(coarse, body, slice(None))
        return Chest(None, 0, int(one.sum() + both.sum()), is_cut, share=share, lung_pixels=pixels)
    half_depth = float(np.median(body.row[both])) / stride
    tops = _measured_tops(coarse.measured[:, ::stride, ::stride])
    floor = _lung_floor(lung, middle)
    domes = _find_domes(floor, tops, middle, half_depth, pixel_mm[1])
    dome = max(domes)
    mirrored = _find_domes(
        floor[:, ::-1], tops[:, ::-1], floor.shape[1] - 1 - middle, half_depth, pixel_mm[1]
    )
    either = min(dome, max(mirrored))
    recesses = _recesses(floor, middle, domes)
    at_back = _depth_at_back(floor[:, np.arange(floor.shape[1]) < middle.mean()], domes[0])
    with_lung = np.flatnonzero(has_right | has_left)
    first, last = int(with_lung[0]), int(with_lung[-1]) + 1
    chest = Chest(
        dome=dome,
        slices=int(both.sum()),
        one_sided=int(one.sum()),
        domes=domes,
        either_dome=either,
        recesses=recesses,
        depth_at_back=at_back,
        share=share,
        lung_pixels=pixels,
    )
    if dome < 0 or (last - dome) * coarse.slice_mm < ABOVE_DOME_MM:
        return replace(chest, dome=None)
    too_deep = (dome - np.flatnonzero(both)[0]) * coarse.slice_mm > RECESS_MM
    return replace(
        chest, implausible=bool(too_deep) or _cuts_lung(coarse, body, slice(first, last))
    )


def _measured_tops(measured: Mask) -> npt.NDArray[np.intp]:
    """For each column (Y, X), the first slice above the highest measured voxel."""
    tops = np.full(measured.shape[1:], len(measured), np.intp)
    ends_below = ~measured[-1]
    columns = measured[:, ends_below]
    top = len(measured) - columns[::-1].argmax(axis=0)
    tops[ends_below] = np.where(columns.any(axis=0), top, 0)
    return tops


def _find_domes(
    floor: npt.NDArray[np.intp],
    tops: npt.NDArray[np.intp],
    middle: npt.NDArray[np.float64],
    half_depth: float,
    column_mm: float,
) -> tuple[int, int]:
    """Slice of the right and the left dome: -1 without one, `tops` where it is above the scan."""
    chest = np.flatnonzero((floor >= 0).any(axis=0))
    scale = (chest[-1] - chest[0] + 1) * column_mm / CHEST_MM
    left_mm = (np.arange(floor.shape[1]) - middle.mean()) * column_mm / scale
    behind = np.arange(len(floor))[:, None] > half_depth
    is_right, is_left = left_mm < -MEDIAL_MM, left_mm > HEART_MM
    liver_dome = _highest_ridge(floor[:, is_right], tops[:, is_right])
    spleen_dome = _highest_ridge(
        np.where(behind, floor, -1)[:, is_left][:, ::-1], tops[:, is_left][:, ::-1]
    )
    return liver_dome, spleen_dome


def _recesses(
    floor: npt.NDArray[np.intp], middle: npt.NDArray[np.float64], domes: tuple[int, int]
) -> tuple[float, float]:
    """How far the right and the left lung reach below their own dome, in slices."""
    is_right = np.arange(floor.shape[1]) < middle.mean()
    depths = []
    for half, dome in zip((floor[:, is_right], floor[:, ~is_right]), domes, strict=True):
        lung = half[half >= 0]
        lowest = float(np.percentile(lung, RECESS_PERCENTILE)) if len(lung) else float(dome)
        depths.append(dome - lowest)
    return depths[0], depths[1]


def _depth_at_back(floor: npt.NDArray[np.intp], dome: int) -> float:
    """How far a lung reaches below its dome where it touches the back of the chest, in slices.

    The median over columns (x) of more than a few pixels of lung; infinite without any.
    """
    backmost = [
        column[np.flatnonzero(column >= 0)[-2]]
        for column in floor.T
        if np.count_nonzero(column >= 0) > LUNG_COLUMN_PIXELS
    ]
    return float(dome - np.median(backmost)) if backmost else np.inf


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


def _highest_ridge(floor: npt.NDArray[np.intp], tops: npt.NDArray[np.intp]) -> int:
    """Highest broad ridge of one lung's floor, its columns ordered from lateral to medial.

    A column without lung, medial of one with lung, is over a dome whose top is above the scan: its
    floor is that of `tops`, where the scan of this column ends.
    """
    within = np.logical_or.accumulate(floor >= 0, axis=1)
    completed = np.where(within & (floor < 0), tops, floor)
    if min(completed.shape) < 3:
        return -1
    return int(ndimage.grey_opening(completed, footprint=DOME_FOOTPRINT).max())


def _lung_mask(coarse: CoarseVolume, body: Body, stride: int) -> Mask:
    """Large connected components of aerated tissue in the body, on every `stride`-th pixel."""
    hu = coarse.hu[:, ::stride, ::stride]
    components, count = label_components((hu < coarse.lung_hu) & body.mask[:, ::stride, ::stride])
    voxel_ml = coarse.pixel_mm2 * stride**2 * coarse.slice_mm / 1000.0
    keep = np.bincount(components.ravel(), minlength=count + 1) * voxel_ml >= LUNG_MIN_ML
    keep[0] = False
    low, high = LUNG_MEDIAN_HU
    for number in np.flatnonzero(keep):
        keep[number] = low < np.median(hu[components == number]) < max(high, coarse.lung_hu)
    return np.asarray(keep[components], bool)


def fitted_middle(body: Body) -> npt.NDArray[np.float64]:
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
