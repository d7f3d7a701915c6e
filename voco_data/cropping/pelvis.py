"""The lower end of the pelvis: below the ischium, the two femora are the only bones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from voco_data.cropping.body import Body
from voco_data.cropping.bones import Femora, bone_mask, find_femora, median_femora
from voco_data.cropping.sampling import CoarseVolume, Mask

BELOW_SPINE_MM = 220.0
"""The search starts so far below the sacrum, in the thighs."""
ABOVE_SPINE_MM = 80.0
"""The search ends so far above the lowest slice of the spine: contrast in the rectum may look like
spine, and make it end too low by nearly this much."""
START_MM = 20.0
"""Noise may hide a femur in the lowest slices, but not over this length."""
BELOW_SPINE_MIN_MM = 25.0
"""A scan that ends nearer below the spine shows no thighs."""
ISCHIUM_BELOW_SPINE_MM = 170.0
"""The ischium ends within this distance below the spine."""
ISCHIUM_MM2 = 150.0
"""Least area of the ischium medial of a femur, where the femora are ADULT_MM apart."""
ADULT_MM = 220.0
BESIDE_MM = 10.0
"""The lesser trochanter projects from the shaft by about this much."""
THIGH_SLICES = 5
"""The position of the femora is the median over so many slices below."""
PELVIS_MM, PELVIS_SHARE = 40.0, 0.7
"""Over this length above the ischium's end, this share of the slices must show it too."""
WHOLE_MM, WHOLE_SHARE = 24.0, 0.75
"""A slice that shows less than this share of the body of a slice so far inside is blank in part."""
BLANK_LIMIT_MM = 100.0
"""Slices that are blank in part are searched so far from the end of the scan."""
ABOVE_THIGH_SPINE_MM = 40.0
"""Thighs on top are further from the spine."""
THIGH_MM2 = 4000.0
"""Least area of each of the two largest components of a slice through parted thighs."""
THIGH_SHARE = 0.4
"""Least area of the second thigh, as a share of the first."""


def find_ischium(coarse: CoarseVolume, body: Body, sacrum: int) -> int | None:
    """Lowest slice of the ischial tuberosities; None where the scan does not show their end.

    `sacrum` is the lowest slice of the spine. The search goes up from the thighs, where each side
    has one bone, to the first bone medial of the femora and not in front of them: vessels with
    contrast are in front.
    """
    first = _first_whole_slice(coarse, body)
    if (sacrum - first) * coarse.slice_mm < BELOW_SPINE_MIN_MM:
        return None
    low = max(first, sacrum - round(BELOW_SPINE_MM / coarse.slice_mm))
    high = sacrum + round(ABOVE_SPINE_MM / coarse.slice_mm)
    min_slices = max(2, round(PELVIS_MM / coarse.slice_mm))
    thighs: list[Femora] = []
    has_ischium: list[bool] = []
    for index in range(low, min(high, len(coarse.hu))):
        bone = _bone(coarse, body, index)
        femora = find_femora(bone, int(body.column[index]), coarse)
        if not thighs and femora is None:
            if (index - low) * coarse.slice_mm > START_MM:
                return None  # the lowest slices are not thighs: the ischium ends below the scan
            continue
        if not thighs and femora is not None:
            thighs.append(femora)
        has_ischium.append(_has_ischium(bone, median_femora(thighs[-THIGH_SLICES:]), coarse))
        if femora is not None and not has_ischium[-1]:
            thighs.append(femora)
        recent = has_ischium[-min_slices:]
        if len(has_ischium) > min_slices and recent[0] and np.mean(recent) >= PELVIS_SHARE:
            lowest = index - min_slices + 1
            is_near = (sacrum - lowest) * coarse.slice_mm < ISCHIUM_BELOW_SPINE_MM
            return lowest if is_near else None
    return None


def find_thighs_end(coarse: CoarseVolume, body: Body) -> int | None:
    """First slice above the parted thighs at the scan's lower end; None without thighs."""
    first = _first_whole_slice(coarse, body)
    end = first
    while end < len(body.mask) and _is_two_thighs(body.mask[end], coarse.pixel_mm2):
        end += 1
    return end if first < end < len(body.mask) else None


def shows_thighs_on_top(coarse: CoarseVolume, body: Body, spine: tuple[int, int] | None) -> bool:
    """Whether the scan's upper end shows thighs: a femur on each side and no bone between.

    `spine`: its first and last + 1 slice. It does not reach into thighs.
    """
    if spine and (len(coarse.hu) - spine[1]) * coarse.slice_mm < ABOVE_THIGH_SPINE_MM:
        return False
    last = _last_whole_slice(coarse, body)
    bone = _bone(coarse, body, last)
    femora = find_femora(bone, int(body.column[last]), coarse)
    return femora is not None and not _has_ischium(bone, femora, coarse)


def _first_whole_slice(coarse: CoarseVolume, body: Body) -> int:
    """The lowest slice above all those at the lower end of which a large part is blank."""
    return _blank_slices(coarse, body, list(range(len(coarse.hu))))


def _last_whole_slice(coarse: CoarseVolume, body: Body) -> int:
    """The uppermost slice below all those at the upper end of which a large part is blank."""
    inward = list(range(len(coarse.hu)))[::-1]
    return inward[_blank_slices(coarse, body, inward)]


def _blank_slices(coarse: CoarseVolume, body: Body, inward: Sequence[int]) -> int:
    """Number of slices, ordered from an end of the scan, up to the last that is blank in part."""
    step, limit = (max(1, round(n / coarse.slice_mm)) for n in (WHOLE_MM, BLANK_LIMIT_MM))
    blank = 0
    for count, (index, inner) in enumerate(zip(inward[:limit], inward[step:], strict=False)):
        if not _is_whole(coarse, body, index, inner):
            blank = count + 1
    return blank


def _is_whole(coarse: CoarseVolume, body: Body, index: int, inner: int) -> bool:
    """Whether a slice was measured where the body is in another slice, farther from the end."""
    outline = body.mask[inner]
    measured = np.count_nonzero(coarse.measured[index] & outline)
    return bool(measured >= WHOLE_SHARE * np.count_nonzero(outline))


def _bone(coarse: CoarseVolume, body: Body, index: int) -> Mask:
    bone = bone_mask(coarse.hu[index][None], coarse, body.noise_hu)[0]
    return np.asarray(bone & body.mask[index], bool)


def _has_ischium(bone: Mask, femora: Femora, coarse: CoarseVolume) -> bool:
    """Whether there is bone between the femora, beside or behind one of them."""
    beside = max(1, round(BESIDE_MM / coarse.spacing_mm[2]))
    front = round(BESIDE_MM / coarse.spacing_mm[1])
    right, left = femora.inner
    middle = (right + left + 1) // 2
    scale = min(1.0, (left - right) * coarse.spacing_mm[2] / ADULT_MM)
    for columns, row in (
        (slice(right + beside + 1, middle), femora.row[0]),
        (slice(middle, max(middle, left - beside)), femora.row[1]),
    ):
        part = bone[max(0, int(row) - front) :, columns]
        if part.sum() * coarse.pixel_mm2 >= ISCHIUM_MM2 * scale**2:
            return True
    return False


def _is_two_thighs(plane: Mask, pixel_mm2: float) -> bool:
    labels, count = ndimage.label(plane)
    if count < 2:
        return False
    areas = np.sort(np.bincount(labels.ravel())[1:])[::-1] * pixel_mm2
    return bool(areas[1] >= max(THIGH_MM2, THIGH_SHARE * areas[0]))
