"""Bone in a coarse volume, and the slices through the spine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.cropping.body import HIGHEST_HU, Body, Coarse, Mask

BONE_HU = 150
MUSCLE_HU = 60
"""Three standard deviations of noise above muscle is bone, where that is more than BONE_HU."""
SMOOTH_MM = 7.0
"""Larger pixels are not averaged."""
SPINE_HALF_MM = 30.0
"""The spine stands in a strip of this half width about the body's middle, in the back half."""
SPINE_MM2 = 200.0
"""Least area of bone there."""
SPINE_GAP_MM = 24.0
"""A disc, or a slice of thin bone, may interrupt the spine for so long."""
SPINE_MIN_MM = 50.0
"""A shorter run of such slices is no spine, unless the scan is hardly longer."""

assert np.iinfo(np.int16).max >= 9 * HIGHEST_HU, "nine pixels are summed in int16"


def bone_mask(hu: npt.NDArray[np.int16], coarse: Coarse, noise_hu: float) -> Mask:
    """Bone in the mean of 3 x 3 pixels of slices (Z, Y, X) that are sampled as `coarse` is.

    The mean lowers noise, and closes a thin shell over soft marrow. Noise of CT has a grain of
    some pixels, so that nine of them only halve it.
    """
    if max(coarse.spacing_mm[1:]) > SMOOTH_MM:
        return np.asarray(hu > max(BONE_HU, MUSCLE_HU + 3 * noise_hu), bool)
    total = hu * np.int16(9)
    rows = hu[:, :-2] + hu[:, 1:-1] + hu[:, 2:]
    total[:, 1:-1, 1:-1] = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return np.asarray(total > 9 * max(BONE_HU, MUSCLE_HU + 1.5 * noise_hu), bool)


def find_spine(coarse: Coarse, body: Body) -> tuple[int, int] | None:
    """First and last + 1 slice of the spine, sacrum included; None without a spine.

    It is the longest run of slices with bone at the back of the body's middle.
    """
    count, height, width = coarse.hu.shape
    half = max(1, round(SPINE_HALF_MM / coarse.spacing_mm[2]))
    z, y = np.arange(count)[:, None, None], np.arange(height)[:, None]
    x = np.clip(body.column[:, None, None] + np.arange(-half, half + 1), 0, width - 1)
    bone = bone_mask(coarse.hu[z, y, x], coarse, body.noise_hu) & body.mask[z, y, x]
    bone &= y >= body.row[:, None, None]
    seen = bone.sum(axis=(1, 2)) * coarse.pixel_mm2 > SPINE_MM2
    gap = max(1, round(SPINE_GAP_MM / coarse.slice_mm))
    runs, number = ndimage.label(ndimage.binary_closing(np.pad(seen, gap), np.ones(gap + 1)))
    if number == 0:
        return None
    longest = np.bincount(runs)[1:].argmax() + 1
    slices = np.flatnonzero((runs == longest)[gap:-gap] & seen)
    first, last = int(slices[0]), int(slices[-1]) + 1
    least = min(SPINE_MIN_MM / coarse.slice_mm, 0.8 * count)
    return (first, last) if last - first >= least else None
