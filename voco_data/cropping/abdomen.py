"""The box of the abdomen from HU alone, without a model and without labels.

The top is the dome of the diaphragm, the bottom the lower end of the pelvis. If a scan does not
show one of them, the end of the scan is used instead. If the profiles contradict each other, the
box is that of the whole body, with a confidence below 0.5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voco_data.cropping.body import Body, CoarseVolume, find_body, sample_volume
from voco_data.cropping.bones import find_spine
from voco_data.cropping.lungs import find_chest
from voco_data.cropping.pelvis import find_ischium, find_thighs_end, is_upside_down
from voco_data.volumes import Box, Triple

BODY_MIN_MM2 = 8000.0
"""Least tissue of a slice through a trunk."""
TRUNK_MM2 = 22_000.0
"""Least median area of a trunk in a scan that shows neither lungs nor pelvis."""
ABDOMEN_MIN_MM = 50.0
"""Least length of an abdomen that is shorter than the scan."""
LUNG_END_MM = 130.0
"""A scan with more lung than this should show the dome."""
SPINE_END_MM = 150.0
"""A scan that continues further below the sacrum should show the end of the pelvis."""
SKULL_SHARE = 0.15
"""A slice with a larger share of bone shows a head."""
SKULL_HU = 300

ENDS_CONFIDENCE = (0.6, 0.8, 0.95)
"""Confidence if 0, 1 or 2 ends were found; the end of the scan replaces a missing one."""
THIGHS_CONFIDENCE = 0.7
"""Confidence if the lower end is where the thighs part, and not the ischium."""
BODY_CONFIDENCE = 0.9
"""Confidence of the `body` crop."""
MISSED_CONFIDENCE = 0.4
"""Confidence of the whole body, if the scan should show an end that was not found."""
CONTRADICTION_CONFIDENCE = 0.2
"""Confidence of the whole body, if the profiles contradict each other."""
TRUSTED_CONFIDENCE = 0.5
"""A box of lower confidence is a fallback."""


def find_box(hu: npt.NDArray[np.int16], spacing_mm: Triple, *, crop: str, margin_mm: Triple) -> Box:
    """The box of a crop policy in a canonical volume (z, y, x) of HU.

    `crop` is `abdomen`: z-range and body box; `body`: body box over all slices; or `none`: the
    whole volume. Without a body the result is the whole volume, with confidence 0.
    """
    if crop == "none":
        return Box.whole(_shape(hu))
    coarse = sample_volume(hu, spacing_mm)
    body = find_body(coarse)
    if body.area_mm2.max(initial=0.0) < BODY_MIN_MM2:
        return Box.whole(_shape(hu))
    if crop == "body":
        present = np.flatnonzero(body.area_mm2 > 0)
        bottom, top, confidence, method = (
            int(present[0]),
            int(present[-1]) + 1,
            BODY_CONFIDENCE,
            "body",
        )
    else:
        bottom, top, confidence = _abdomen_range(coarse, body)
        if not body.mask[bottom:top].any():
            bottom, top, confidence = 0, len(coarse.hu), CONTRADICTION_CONFIDENCE
        method = "profile" if confidence >= TRUSTED_CONFIDENCE else "body"
    projection = np.any(body.mask[bottom:top], axis=0)
    y, x = (np.flatnonzero(np.any(projection, axis=axis)) for axis in (1, 0))
    margin = np.ceil(np.divide(margin_mm, spacing_mm)).astype(int)
    start = np.array([bottom, y[0], x[0]]) * coarse.step - margin
    stop = np.array([top, y[-1] + 1, x[-1] + 1]) * coarse.step + margin
    a, b, c = np.maximum(start, 0).tolist()
    d, e, f = np.minimum(stop, hu.shape).tolist()
    return Box((a, b, c), (d, e, f), method, confidence)


def _abdomen_range(coarse: CoarseVolume, body: Body) -> tuple[int, int, float]:
    """(bottom, top, confidence) in coarse slices; top is exclusive."""
    count = len(coarse.hu)
    spine, chest = find_spine(coarse, body), find_chest(coarse, body)
    ischium = find_ischium(coarse, body, spine[0]) if spine else None
    bottom = find_thighs_end(coarse, body) if ischium is None else ischium
    low, high = bottom or 0, count if chest.dome is None else chest.dome
    if (
        chest.implausible
        or is_upside_down(coarse, body)
        or (high - low < count and (high - low) * coarse.slice_mm < ABDOMEN_MIN_MM)
    ):
        return 0, count, CONTRADICTION_CONFIDENCE
    lung_mm = (chest.slices + chest.one_sided) * coarse.slice_mm
    dome_missed = chest.dome is None and lung_mm > LUNG_END_MM
    pelvis_missed = bottom is None and (spine is None or spine[0] * coarse.slice_mm > SPINE_END_MM)
    shows_no_end = bottom is None and chest.dome is None
    if dome_missed or pelvis_missed or (shows_no_end and not _is_trunk(coarse, body)):
        return 0, count, MISSED_CONFIDENCE
    if bottom is not None and ischium is None:
        return low, high, THIGHS_CONFIDENCE
    return low, high, ENDS_CONFIDENCE[(bottom is not None) + (chest.dome is not None)]


def _is_trunk(coarse: CoarseVolume, body: Body) -> bool:
    """Whether a scan that shows neither dome nor pelvic floor may be a part of the abdomen."""
    if np.median(body.area_mm2) < TRUNK_MM2:
        return False
    bone = ((coarse.hu > SKULL_HU) & body.mask).sum(axis=(1, 2)) * coarse.pixel_mm2
    return bool(np.all(bone < SKULL_SHARE * np.maximum(body.area_mm2, 1.0)))


def _shape(hu: npt.NDArray[np.int16]) -> tuple[int, int, int]:
    z, y, x = hu.shape
    return (z, y, x)
