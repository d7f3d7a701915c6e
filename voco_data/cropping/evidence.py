"""Signs that a scan without visible ends shows the abdomen, and that a found dome is one.

That no end was found says nothing: a head, a thigh and a part of the chest have none either.
"""

from __future__ import annotations

import numpy as np

from voco_data.cropping.body import Body
from voco_data.cropping.bones import MidlineBone
from voco_data.cropping.lungs import Chest
from voco_data.cropping.sampling import CoarseVolume, Mask

TRUNK_MM2 = 22_000.0
"""Least median area of a trunk."""
TRUNK_ASPECT = (1.12, 2.1)
"""Width of a trunk, divided by its depth. In real scans it is 1.16 to 1.9; a thigh is round, a
head is deeper than wide, and shoulders are flatter."""
SPINE_DEPTH = (0.6, 0.9)
"""Depth of the spine in the body, as a share from front to back. In real scans it is 0.66 to 0.83.
A femur is in the middle of a thigh, the back of a skull is at the skin."""
FAT_HU = (-160, -40)
FAT_SHARE = 0.05
"""Least share of fat. A head has less, a lean trunk twice as much."""
BELOW_LUNG_MM = 30.0
"""Least extent of trunk without lung below the base of a lung."""
ABDOMEN_SHARE = 0.5
"""At least so many slices of a scan without lung must look like abdomen."""

CUT_SHARE = 0.85
"""A side of the body is cut if it is straight along more than this share of the body's extent, in
most slices. In real scans the share was 0.5 or less, in their right and left halves 0.87 or
more."""

RIGHT_HIGHER_MM, LEFT_HIGHER_MM = 62.0, 40.0
"""In an adult, as the lengths below: the right dome is higher than the left one by less, and lower
by less. In real scans without fluid it was 24 mm lower to 35 mm higher, and 53 mm in a large
body."""
RECESS_MM = 20.0
"""Least depth of lung beside and behind a dome. In real scans it is 35 mm or more."""
BACK_MM = 8.0
"""Least depth of the right lung below its dome, at the back of the chest. In real scans it is 15 mm
or more. Fluid behind both lungs lifts their floor there, and the domes are then equally high."""
BELOW_DOME_MM = 60.0
"""Least extent of the scan below a dome for the depth of the lung to be known."""


def shows_abdomen(coarse: CoarseVolume, body: Body, chest: Chest, bone: MidlineBone) -> bool:
    """Whether a scan that shows neither dome nor pelvic floor is a part of the abdomen.

    Its slices must be those of a trunk. There must be the base of a lung, with trunk below it; or,
    without lung, the spine at the back, and fat.
    """
    roundest, flattest = TRUNK_ASPECT
    is_trunk = roundest <= _aspect(coarse, body) <= flattest
    if np.median(body.area_mm2) < TRUNK_MM2 or not is_trunk:
        return False
    with_lung = np.flatnonzero(chest.share > 0)
    if len(with_lung):
        return bool(with_lung[0] * coarse.slice_mm >= BELOW_LUNG_MM)
    low, high = FAT_HU
    fat = ((coarse.hu > low) & (coarse.hu < high) & body.mask).sum(axis=(1, 2)) * coarse.pixel_mm2
    nearest, deepest = SPINE_DEPTH
    depth = bone.back_depth
    is_abdomen = (depth > nearest) & (depth < deepest) & (fat > FAT_SHARE * body.area_mm2)
    return bool(np.mean(is_abdomen) >= ABDOMEN_SHARE)


def is_cut(body: Body) -> bool:
    """Whether a side of the body is a straight line: the image shows a half, or a part, of it."""
    mask = body.mask[::2]
    return any(
        _straight_share(side) > CUT_SHARE
        for plane in (mask, mask.transpose(0, 2, 1))
        for side in (plane, plane[:, :, ::-1])
    )


def _straight_share(mask: Mask) -> float:
    """Median share of the lines of a slice that begin at the column where the first one begins.

    Neighbouring columns count too.
    """
    has_body = mask.any(axis=2)
    begin = np.where(has_body, mask.argmax(axis=2), mask.shape[2])
    is_straight = has_body & (begin <= begin.min(axis=1, keepdims=True) + 1)
    n_lines = has_body.sum(axis=1)
    shown = n_lines > 0
    return float(np.median(is_straight.sum(axis=1)[shown] / n_lines[shown])) if shown.any() else 0.0


def domes_disagree(coarse: CoarseVolume, body: Body, chest: Chest) -> bool:
    """Whether a found dome may be fluid or collapse at the base of a lung.

    Then it is much higher than the other one, or the lung ends flat: none is beside or behind it.
    """
    if chest.dome is None or min(chest.domes) < 0:
        return False
    scale = body.scale
    right_higher_mm = (chest.domes[0] - chest.domes[1]) * coarse.slice_mm / scale
    if right_higher_mm > RIGHT_HIGHER_MM or -right_higher_mm > LEFT_HIGHER_MM:
        return True
    if min(chest.domes) * coarse.slice_mm < BELOW_DOME_MM * scale:
        return False
    return bool(
        min(chest.recesses) * coarse.slice_mm < RECESS_MM * scale
        or chest.depth_at_back * coarse.slice_mm < BACK_MM * scale
    )


def _aspect(coarse: CoarseVolume, body: Body) -> float:
    """Median width of the body's slices, divided by the depth."""
    width = body.mask.any(axis=1).sum(axis=1) * coarse.spacing_mm[2]
    depth = body.mask.any(axis=2).sum(axis=1) * coarse.spacing_mm[1]
    shown = depth > 0
    return float(np.median(width[shown] / depth[shown])) if shown.any() else 0.0
