"""The lower end of the pelvis: where, going down, only the two femora are left of the bones."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from voco_data.cropping.body import Body, Coarse, Mask
from voco_data.cropping.bones import bone_mask
from voco_data.cropping.femora import Femora, find_femora, typical

BELOW_SPINE_MM = 220.0
"""The search starts in the thighs, so far below the sacrum."""
ABOVE_SPINE_MM = 80.0
"""Contrast in the rectum may pass for spine and let it end too low by nearly this much."""
START_MM = 20.0
"""Noise may hide a femur in the lowest slices, but not for so long."""
DROP_LEAST_MM, DROP_MM = 25.0, 170.0
"""A scan that ends sooner below the spine shows no thighs; the ischium ends within the other."""
ISCHIUM_MM2 = 150.0
"""Bone of this area medial of a femur is the ischium, where the femora are ADULT_MM apart."""
ADULT_MM = 220.0
BESIDE_MM = 10.0
"""The lesser trochanter stands out from the shaft by about this much."""
THIGHS = 5
"""The femora are where the median of so many slices below has them."""
PELVIS_MM, PELVIS_SHARE = 40.0, 0.7
"""From the ischium's end upwards for so long, this share of the slices must show bone too."""
THIGH_MM2 = 4000.0
"""Each of the two largest pieces of a slice through parted thighs is larger than this."""


def find_ischium(coarse: Coarse, body: Body, sacrum: int) -> int | None:
    """Lowest slice of the ischial tuberosities; None where they are not seen to end.

    `sacrum` is the lowest slice of the spine. The search goes up from the thighs, where each side
    shows one bone, to where bone stands medial of the femora and not in front of them. Vessels
    with contrast are in front.
    """
    if sacrum * coarse.slice_mm < DROP_LEAST_MM:
        return None
    low = max(0, sacrum - round(BELOW_SPINE_MM / coarse.slice_mm))
    high = sacrum + round(ABOVE_SPINE_MM / coarse.slice_mm)
    lasting = max(2, round(PELVIS_MM / coarse.slice_mm))
    thighs: list[Femora] = []
    seen: list[bool] = []
    for index in range(low, min(high, len(coarse.hu))):
        bone = _bone(coarse, body, index)
        femora = find_femora(bone, int(body.column[index]), coarse)
        if not thighs and femora is None:
            if (index - low) * coarse.slice_mm > START_MM:
                return None  # the lowest slices are no thighs: the ischium ends below the scan
            continue
        if not thighs and femora is not None:
            thighs.append(femora)
        seen.append(_has_ischium(bone, typical(thighs[-THIGHS:]), coarse))
        if femora is not None and not seen[-1]:
            thighs.append(femora)
        if len(seen) > lasting and seen[-lasting] and np.mean(seen[-lasting:]) >= PELVIS_SHARE:
            first = index - lasting + 1
            return first if (sacrum - first) * coarse.slice_mm < DROP_MM else None
    return None


def thighs_end(coarse: Coarse, body: Body) -> int | None:
    """First slice above the parted thighs at the scan's lower end; None without."""
    end = 0
    while end < len(body.mask) and _two_pieces(body.mask[end], coarse.pixel_mm2):
        end += 1
    return end if 0 < end < len(body.mask) else None


def is_upside_down(coarse: Coarse, body: Body) -> bool:
    """Whether the scan's upper end shows thighs: a femur on each side and nothing between."""
    bone = _bone(coarse, body, -1)
    femora = find_femora(bone, int(body.column[-1]), coarse)
    return femora is not None and not _has_ischium(bone, femora, coarse)


def _bone(coarse: Coarse, body: Body, index: int) -> Mask:
    bone = bone_mask(coarse.hu[index][None], coarse, body.noise_hu)[0]
    return np.asarray(bone & body.mask[index], bool)


def _has_ischium(bone: Mask, femora: Femora, coarse: Coarse) -> bool:
    """Whether bone stands between the femora, beside or behind one of them."""
    beside = max(1, round(BESIDE_MM / coarse.spacing_mm[2]))
    above = round(BESIDE_MM / coarse.spacing_mm[1])
    right, left = femora.inner
    middle = (right + left + 1) // 2
    apart = min(1.0, (left - right) * coarse.spacing_mm[2] / ADULT_MM)
    for columns, row in (
        (slice(right + beside + 1, middle), femora.row[0]),
        (slice(middle, max(middle, left - beside)), femora.row[1]),
    ):
        part = bone[max(0, int(row) - above) :, columns]
        if part.sum() * coarse.pixel_mm2 >= ISCHIUM_MM2 * apart**2:
            return True
    return False


def _two_pieces(plane: Mask, pixel_mm2: float) -> bool:
    labels, count = ndimage.label(plane)
    if count < 2:
        return False
    areas = np.sort(np.bincount(labels.ravel())[1:])[::-1] * pixel_mm2
    return bool(areas[1] >= max(THIGH_MM2, 0.4 * areas[0]))
