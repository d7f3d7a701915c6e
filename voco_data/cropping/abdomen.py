"""The box of the abdomen from HU alone, without a model and without labels.

The top is the dome of the diaphragm, the bottom the lower end of the pelvis. If a scan does not
show one of them, the end of the scan is used instead. If the profiles contradict each other, the
box is that of the whole body, with a confidence below 0.5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voco_data.cropping.body import Body, find_body
from voco_data.cropping.bones import find_midline_bone, find_spine
from voco_data.cropping.evidence import domes_disagree, is_cut, shows_abdomen
from voco_data.cropping.lungs import find_chest
from voco_data.cropping.orientation import is_inverted, is_mirrored, is_reversed, is_trunk_spine
from voco_data.cropping.pelvis import find_ischium, find_thighs_end, shows_thighs_on_top
from voco_data.cropping.sampling import CoarseVolume, sample_volume
from voco_data.volumes import Box, Triple

BODY_MIN_MM2 = 8000.0
"""Least tissue of a slice through a trunk."""
ABDOMEN_MIN_MM = 50.0
"""Least length of an abdomen that is shorter than the scan."""
LUNG_END_MM = 130.0
"""A scan with more lung than this should show the dome."""
SPINE_END_MM = 150.0
"""A scan that continues further below the sacrum should show the end of the pelvis."""

ENDS_CONFIDENCE = (0.6, 0.8, 0.95)
"""Confidence if 0, 1 or 2 ends were found; the end of the scan replaces a missing one."""
THIGHS_CONFIDENCE = 0.7
"""Confidence if the lower end is where the thighs part, and not the ischium."""
EFFUSION_CONFIDENCE = 0.55
"""Highest confidence if a lung seems to end in fluid, above its dome."""
CLIPPED_CONFIDENCE = 0.7
"""Highest confidence if HU are clipped, so that gas of the bowel has the HU of lung."""
BODY_CONFIDENCE = 0.9
"""Confidence of the `body` crop."""
CLIPPED_THIGHS_MM = 40.0
"""Least extent of thighs below the ischium, if HU are clipped: thin bone is then hardly seen."""
MISSED_CONFIDENCE = 0.4
"""Confidence of the whole body, if the scan should show an end that was not found."""
AMBIGUOUS_CONFIDENCE = 0.3
"""Confidence of the whole body, if HU are clipped so high that fat has the HU of air."""
CONTRADICTION_CONFIDENCE = 0.2
"""Confidence of the whole body, if the profiles contradict each other."""
TRUSTED_CONFIDENCE = 0.5
"""A box of lower confidence is a fallback."""
ORIENTATION_DOUBTED = "orientation_doubted"
"""The flag of a scan that seems to be upside down, back to front or mirrored."""


def find_box(hu: npt.NDArray[np.int16], spacing_mm: Triple, *, crop: str, margin_mm: Triple) -> Box:
    """The box of a crop policy in a canonical volume (z, y, x) of HU.

    `crop` is `abdomen`: z-range and body box; `body`: body box over all slices; or `none`: the
    whole volume. Without a body the result is the whole volume, with confidence 0. A scan that
    seems to be upside down, back to front or mirrored is flagged in `Box.doubts`.
    """
    if crop == "none":
        return Box.whole(_shape(hu))
    coarse = sample_volume(hu, spacing_mm)
    body = find_body(coarse)
    if body.area_mm2.max(initial=0.0) < BODY_MIN_MM2:
        return Box.whole(_shape(hu))
    doubts: tuple[str, ...] = ()
    if crop == "body":
        present = np.flatnonzero(body.area_mm2 > 0)
        bottom, top, confidence = int(present[0]), int(present[-1]) + 1, BODY_CONFIDENCE
    else:
        bottom, top, confidence, is_doubted = _abdomen_range(coarse, body)
        if not body.mask[bottom:top].any():
            bottom, top, confidence = 0, len(coarse.hu), CONTRADICTION_CONFIDENCE
        doubts = (ORIENTATION_DOUBTED,) if is_doubted else ()
    is_profile = crop != "body" and confidence >= TRUSTED_CONFIDENCE
    projection = np.any(body.mask[bottom:top], axis=0)
    y, x = (np.flatnonzero(np.any(projection, axis=axis)) for axis in (1, 0))
    # A fallback keeps blank slices too.
    low, high = (
        coarse.range_in_volume(bottom, top) if is_profile or crop == "body" else (0, len(hu))
    )
    margin = np.ceil(np.divide(margin_mm, spacing_mm)).astype(int)
    _, sy, sx = coarse.step
    start = np.array([low, y[0] * sy, x[0] * sx]) - margin
    stop = np.array([high, (y[-1] + 1) * sy, (x[-1] + 1) * sx]) + margin
    a, b, c = np.maximum(start, 0).tolist()
    d, e, f = np.minimum(stop, hu.shape).tolist()
    return Box((a, b, c), (d, e, f), "profile" if is_profile else "body", confidence, doubts)


def _abdomen_range(coarse: CoarseVolume, body: Body) -> tuple[int, int, float, bool]:
    """(bottom, top, confidence, whether the orientation is doubted) in coarse slices.

    `top` is exclusive. A scan whose confidence is below TRUSTED_CONFIDENCE is kept whole.
    """
    count = len(coarse.hu)
    bone = find_midline_bone(coarse, body)
    spine, chest = find_spine(bone.back_mm2, coarse), find_chest(coarse, body)
    thighs_on_top = shows_thighs_on_top(coarse, body, spine)
    if (
        (thighs_on_top and is_trunk_spine(spine, coarse))  # else the scan may show legs alone
        or is_reversed(bone, spine, find_spine(bone.front_mm2, coarse), coarse)
        or is_inverted(coarse, body, chest)
        or is_mirrored(coarse, body, chest)
    ):
        return 0, count, CONTRADICTION_CONFIDENCE, True
    ischium = find_ischium(coarse, body, spine[0]) if spine else None
    bottom = find_thighs_end(coarse, body) if ischium is None else ischium
    is_clipped = coarse.clipped_at is not None
    if is_clipped and bottom is not None and bottom * coarse.slice_mm < CLIPPED_THIGHS_MM:
        bottom = None
    low, high = bottom or 0, count if chest.dome is None else chest.dome
    if coarse.is_ambiguous:
        return 0, count, AMBIGUOUS_CONFIDENCE, False
    if (
        thighs_on_top
        or chest.implausible
        or (high - low < count and (high - low) * coarse.slice_mm < ABDOMEN_MIN_MM)
    ):
        return 0, count, CONTRADICTION_CONFIDENCE, False
    lung_mm = (chest.slices + chest.one_sided) * coarse.slice_mm
    dome_missed = chest.dome is None and lung_mm > LUNG_END_MM
    pelvis_missed = bottom is None and (spine is None or spine[0] * coarse.slice_mm > SPINE_END_MM)
    shows_no_end = bottom is None and chest.dome is None
    # Below a dome is some abdomen without lung. Else the scan is of a chest, or upside down.
    is_lung_lowest = chest.dome is not None and bool(chest.share[0] > 0)
    if (
        dome_missed
        or pelvis_missed
        or is_lung_lowest
        or is_cut(body)
        or (shows_no_end and not shows_abdomen(coarse, body, chest, bone))
    ):
        return 0, count, MISSED_CONFIDENCE, False
    confidence = ENDS_CONFIDENCE[(bottom is not None) + (chest.dome is not None)]
    if bottom is not None and ischium is None:
        confidence = THIGHS_CONFIDENCE
    if domes_disagree(coarse, body, chest):
        confidence = min(confidence, EFFUSION_CONFIDENCE)
    if is_clipped:
        confidence = min(confidence, CLIPPED_CONFIDENCE)
    return low, high, confidence, False


def _shape(hu: npt.NDArray[np.int16]) -> tuple[int, int, int]:
    z, y, x = hu.shape
    return (z, y, x)
