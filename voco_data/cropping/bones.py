"""Bone in a coarse volume: the slices through the spine, and the femora in one slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.cropping.body import Body
from voco_data.cropping.sampling import HIGHEST_HU, CoarseVolume, Mask

BONE_HU = 150
MUSCLE_HU = 60
"""The threshold of bone is BONE_HU, or, if higher, MUSCLE_HU and three standard deviations."""
SMOOTH_MM = 7.0
"""Larger pixels are not averaged."""
SPINE_HALF_WIDTH_MM = 30.0
"""The spine is searched in a strip of this half width about the body's middle, in its back half."""
SPINE_MIN_MM2 = 200.0
"""Least area of bone in that strip."""
SPINE_GAP_MM = 24.0
"""Longest interruption of the spine, by a disc or by slices of thin bone."""
SPINE_MIN_MM = 50.0
"""Least length of a spine, unless the scan is hardly longer."""
FEMUR_MIN_MM2 = 60.0
"""Least area of a femur's bone."""
FEMUR_MAX_WIDTH_MM = 75.0
"""Largest width of a femur."""
ALONE_MM, ALONE_SHARE = 45.0, 0.3
"""No other bone of this share of a femur's area is so near to it; a hand is further away."""
FEMORA_APART_MM = 45.0
"""Least distance of the femora's inner edges, in a small child."""

assert np.iinfo(np.int16).max >= 9 * HIGHEST_HU, "the sum of nine pixels must fit int16"


def bone_mask(hu: npt.NDArray[np.int16], coarse: CoarseVolume, noise_hu: float) -> Mask:
    """Bone in `hu` (Z, Y, X), slices or parts of slices with the spacing of `coarse`.

    The mean of 3 x 3 pixels is compared with the threshold: it lowers noise and closes thin
    cortical bone over soft marrow. Noise of CT is correlated over some pixels, so that nine only
    halve it.
    """
    if max(coarse.spacing_mm[1:]) > SMOOTH_MM:
        return np.asarray(hu > max(BONE_HU, MUSCLE_HU + 3 * noise_hu), bool)
    total = hu * np.int16(9)
    rows = hu[:, :-2] + hu[:, 1:-1] + hu[:, 2:]
    total[:, 1:-1, 1:-1] = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return np.asarray(total > 9 * max(BONE_HU, MUSCLE_HU + 1.5 * noise_hu), bool)


Areas = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MidlineBone:
    """Bone in a strip about the body's middle, for each slice, (Z,)."""

    front_mm2: Areas
    """Area in the front half of the body."""
    back_mm2: Areas
    """Area in the back half."""
    back_depth: Areas
    """Mean depth of that in the back half: 0 at the front of the strip's body, 1 at the back."""


def find_midline_bone(coarse: CoarseVolume, body: Body) -> MidlineBone:
    """Bone in a strip about the body's middle."""
    count, height, width = coarse.hu.shape
    half = max(1, round(SPINE_HALF_WIDTH_MM / coarse.spacing_mm[2]))
    size = min(2 * half + 1, width)
    starts = np.clip(body.column - half, 0, width - size).tolist()
    strip = np.empty((count, height, size), np.int16)
    in_body = np.empty((count, height, size), np.bool_)
    for z, start in enumerate(starts):
        strip[z] = coarse.hu[z, :, start : start + size]
        in_body[z] = body.mask[z, :, start : start + size]
    per_row = (bone_mask(strip, coarse, body.noise_hu) & in_body).sum(axis=2)
    rows = np.arange(height)
    back = np.where(rows >= body.row[:, None], per_row, 0)
    total, total_back = per_row.sum(axis=1), back.sum(axis=1)
    has_body = in_body.any(axis=2)
    first, depth_px = has_body.argmax(axis=1), np.maximum(has_body.sum(axis=1), 1)
    depth = (back @ rows / np.maximum(total_back, 1) - first) / depth_px
    return MidlineBone(
        front_mm2=(total - total_back) * coarse.pixel_mm2,
        back_mm2=total_back * coarse.pixel_mm2,
        back_depth=np.where(total_back > 0, depth, 0.0),
    )


def find_spine(bone_mm2: Areas, coarse: CoarseVolume) -> tuple[int, int] | None:
    """First and last + 1 slice of the spine, sacrum included; None without a spine.

    The spine is the longest run of slices with bone in the back half of the body's middle.
    """
    count = len(bone_mm2)
    has_bone = bone_mm2 > SPINE_MIN_MM2
    gap = max(1, round(SPINE_GAP_MM / coarse.slice_mm))
    runs, n_runs = ndimage.label(ndimage.binary_closing(np.pad(has_bone, gap), np.ones(gap + 1)))
    if n_runs == 0:
        return None
    longest = np.bincount(runs)[1:].argmax() + 1
    slices = np.flatnonzero((runs == longest)[gap:-gap] & has_bone)
    first, last = int(slices[0]), int(slices[-1]) + 1
    min_length = min(SPINE_MIN_MM / coarse.slice_mm, 0.8 * count)
    return (first, last) if last - first >= min_length else None


@dataclass(frozen=True, slots=True)
class Femora:
    """The right and the left femur in a slice, in pixels."""

    inner: tuple[int, int]
    """Columns of their medial edges."""
    row: tuple[float, float]
    """Rows of their centres."""


def find_femora(bone: Mask, middle: int, coarse: CoarseVolume) -> Femora | None:
    """The largest component of bone (Y, X) on each side of column `middle`, if each is a femur.

    None unless both have a femur's size, no other bone is near, and they are far enough apart.
    """
    column_mm = coarse.spacing_mm[2]
    near = round(ALONE_MM / column_mm)
    components, _ = ndimage.label(bone)
    inner, rows = [], []
    for half, offset in ((components[:, :middle], 0), (components[:, middle:], middle)):
        areas = np.bincount(half.ravel(), minlength=2)
        areas[0] = 0
        femur = half == areas.argmax()
        area = int(areas.max())
        if area * coarse.pixel_mm2 < FEMUR_MIN_MM2:
            return None
        columns = np.flatnonzero(femur.any(axis=0))
        first, last = int(columns[0]), int(columns[-1])
        if (last - first + 1) * column_mm > FEMUR_MAX_WIDTH_MM:
            return None
        nearby_areas = np.bincount(half[:, max(0, first - near) : last + near + 1].ravel())[1:]
        if np.count_nonzero(nearby_areas > ALONE_SHARE * area) > 1:
            return None
        inner.append((first if offset else last) + offset)
        rows.append(float(femur.sum(axis=1) @ np.arange(len(femur))) / area)
    if (inner[1] - inner[0]) * column_mm < FEMORA_APART_MM:
        return None
    return Femora((inner[0], inner[1]), (rows[0], rows[1]))


def median_femora(femora: Sequence[Femora]) -> Femora:
    """The median over several slices: noise may break a femur's ring in one or two."""
    right, left = (round(median(f.inner[side] for f in femora)) for side in (0, 1))
    right_row, left_row = (median(f.row[side] for f in femora) for side in (0, 1))
    return Femora((right, left), (right_row, left_row))
