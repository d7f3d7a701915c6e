"""Signs that the axes of a scan do not have the directions that its file claims.

A prone patient, with right headers, has the couch in front and the spine at the back, so the couch
is no sign.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voco_data.cropping.body import Body
from voco_data.cropping.bones import MidlineBone
from voco_data.cropping.liver import find_solid_tissue
from voco_data.cropping.lungs import Chest, fitted_middle
from voco_data.cropping.sampling import CoarseVolume

SPINE_MM = 100.0
"""Least length of the spine of a trunk: the pubis is shorter."""
RUN_SHARE = 0.8
"""The spine is not shorter than bone on the other side by this factor."""
REVERSED_PERCENTILE, REVERSED_RATIO = 25, 1.8
"""Low percentile of the area of bone, and by how much that of a spine in front is larger than that
of bone at the back. In real scans it was up to 0.5; in the same scans, reversed, 1.9 or more."""
CHEST_MM = 20.0
"""Least extent of both lungs for the chest to be one end of the scan."""
ABOVE_CHEST_MM, ABOVE_CHEST_SHARE = 100.0, 0.6
"""Above the lungs, a scan shows no more of the body than this, in slices that are larger than this
share of those with lung: neck and raised arms are smaller."""
IMPLAUSIBLE_MM = 50.0
"""The same, where the lungs are implausible too."""
SOFT_HU = (0, 180)
"""Heart, liver and spleen."""
LIVER_SCORE = 0.1
"""The first term of the score is lower, too: a lung full of fluid changes only the others."""
LIVER_MM = (100.0, 10.0)
"""Liver and spleen are compared from this depth below the higher dome to this one."""
HEART_MM = (10.0, 60.0)
"""Heart and lungs are compared from this height above the higher dome to this one."""
HEART_MIN_MM = 10.0
"""Least part of that range for the chest to tell right from left."""
MIRRORED_SCORE = -0.35
"""A scan with a lower score is mirrored. In real scans the score was 0.7 to 1.6, and -0.03 in one
with a lung full of tumour."""
LIVER_OFFSET_MM, LIVER_SHARE, LIVER_ML, LIVER_ML_WITHOUT_DOME = 30.0, 0.58, 90.0, 200.0
"""In an adult, the liver is on a side if the largest solid part of the upper abdomen is so far from
the middle and has this volume, and this half of the body has this share of all. In 23 of 24 real
scans the part was 34 to 100 mm to the right, and in one only 3 ml large. Without a dome it may be
muscle of the hip, and needs a larger volume."""


def is_trunk_spine(spine: tuple[int, int] | None, coarse: CoarseVolume) -> bool:
    """Whether a run of bone, first and last + 1 slice, is long enough for the spine of a trunk."""
    return spine is not None and (spine[1] - spine[0]) * coarse.slice_mm >= SPINE_MM


def is_reversed(
    bone: MidlineBone,
    back: tuple[int, int] | None,
    front: tuple[int, int] | None,
    coarse: CoarseVolume,
) -> bool:
    """Whether front and back are exchanged: the spine is in front.

    `back` and `front`: first and last + 1 slice of the longest run of bone in the back half and in
    the front half of the body's middle. Bowel with contrast makes a long run in front too, but not
    in every slice as large as a spine.
    """
    if front is None or not is_trunk_spine(front, coarse):
        return False
    if back is not None and front[1] - front[0] < RUN_SHARE * (back[1] - back[0]):
        return False
    low_front, low_back = (
        np.percentile(area[slice(*front)], REVERSED_PERCENTILE)
        for area in (bone.front_mm2, bone.back_mm2)
    )
    return bool(low_front > REVERSED_RATIO * low_back)


def is_inverted(coarse: CoarseVolume, body: Body, chest: Chest) -> bool:
    """Whether head and feet are exchanged: much of a trunk is above the lungs."""
    if chest.slices * coarse.slice_mm < CHEST_MM:
        return False
    with_lung = np.flatnonzero(chest.share > 0)
    least = ABOVE_CHEST_SHARE * np.median(body.area_mm2[with_lung])
    above = np.count_nonzero(body.area_mm2[with_lung[-1] + 1 :] > least)
    below = np.count_nonzero(body.area_mm2[: with_lung[0]] > least)
    least_mm = IMPLAUSIBLE_MM if chest.implausible else ABOVE_CHEST_MM
    return bool(above * coarse.slice_mm > least_mm and above > below)


def is_mirrored(coarse: CoarseVolume, body: Body, chest: Chest) -> bool:
    """Whether right and left are exchanged, by the chest and by the place of the liver.

    Fluid in the left lung makes the chest look mirrored, and the liver is then still on the right.
    """
    score, liver = _chest_scores(coarse, body, chest)
    side = _side_of_liver(coarse, body, chest)
    if score < MIRRORED_SCORE and liver < LIVER_SCORE:
        return side != "right"
    return side == "left" and score <= -MIRRORED_SCORE


def _side_of_liver(coarse: CoarseVolume, body: Body, chest: Chest) -> str:
    """`right` or `left`, or empty if no organ is large enough or it is near the middle."""
    solid = find_solid_tissue(coarse, body, chest)
    least_ml = LIVER_ML if chest.either_dome >= 0 else LIVER_ML_WITHOUT_DOME
    if (
        solid.largest_ml < least_ml * body.scale**3
        or abs(solid.largest_left_mm) < LIVER_OFFSET_MM * body.scale
    ):
        return ""
    side, share = (
        ("left", solid.left_share) if solid.largest_left_mm > 0 else ("right", 1 - solid.left_share)
    )
    return side if share > LIVER_SHARE else ""


def _chest_scores(coarse: CoarseVolume, body: Body, chest: Chest) -> tuple[float, float]:
    """How much the sizes of liver, heart and lungs are those of a scan that is not mirrored.

    The sum of the logarithms of three ratios, and the first of them: soft tissue below the domes,
    right to left; soft tissue above them, left to right; lung above them, right to left. Both are 0
    for a symmetric body, and without both domes and some chest above them.
    """
    dome, count = chest.either_dome, len(coarse.hu)
    if dome < 0:
        return 0.0, 0.0
    deep, shallow, near, far = (
        round(length / coarse.slice_mm) for length in (*LIVER_MM, *HEART_MM)
    )
    belly = slice(max(0, dome - deep), max(0, dome - shallow))
    thorax = slice(min(count, dome + near), min(count, dome + far))
    if (thorax.stop - thorax.start) * coarse.slice_mm < HEART_MIN_MM or belly.stop == belly.start:
        return 0.0, 0.0
    middle = fitted_middle(body)
    belly_right, belly_left = _soft_tissue(coarse, body, middle, belly)
    thorax_right, thorax_left = _soft_tissue(coarse, body, middle, thorax)
    lung_right, lung_left = chest.lung_pixels[:, thorax].sum(axis=1)
    liver = np.log((belly_right + 1) / (belly_left + 1))
    score = liver + np.log(
        (thorax_left + 1) / (thorax_right + 1) * (lung_right + 1) / (lung_left + 1)
    )
    return float(score), float(liver)


def _soft_tissue(
    coarse: CoarseVolume, body: Body, middle: npt.NDArray[np.float64], slices: slice
) -> tuple[int, int]:
    """Voxels of soft tissue in the right and in the left half of the body."""
    low, high = SOFT_HU
    hu = coarse.hu[slices, ::2]
    soft = ((hu > low) & (hu < high) & body.mask[slices, ::2]).sum(axis=1)
    is_right = np.arange(soft.shape[1]) < middle[slices, None]
    right = int(soft[is_right].sum())
    return right, int(soft.sum()) - right
