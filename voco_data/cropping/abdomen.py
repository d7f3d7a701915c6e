"""The abdomen's z-range and the body's box, from HU alone: no weights, no labels.

The top is the dome of the diaphragm, the bottom the lower end of the pelvis. What a scan does
not show, its own end replaces. Where the profiles make no sense, the whole body is kept, with a
confidence below 0.5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voco_data.cropping.body import Body, Coarse, find_body, sample
from voco_data.cropping.bones import find_spine
from voco_data.cropping.lungs import find_chest
from voco_data.cropping.pelvis import find_ischium, is_upside_down, thighs_end
from voco_data.volumes.box import Box, whole
from voco_data.volumes.geometry import Triple

BODY_MIN_MM2 = 8000.0
"""A slice with less tissue than this is not through a trunk."""
TRUNK_MM2 = 22_000.0
"""Without lungs or pelvis only a body of this area passes for a trunk."""
ABDOMEN_MIN_MM = 50.0
"""Less than this between the ends is not worth a crop."""
LUNG_END_MM = 130.0
"""A scan with more lung than this should have shown the dome."""
SPINE_END_MM = 150.0
"""A scan that goes on for longer below the sacrum should have shown where the pelvis ends."""
SKULL_SHARE = 0.15
"""More bone than this in a slice is a head."""
SKULL_HU = 300

ENDS = (0.6, 0.8, 0.95)
"""Confidence by how many of dome and pelvis were seen to end; the scan ends before the others."""
PARTED = 0.7
"""Where the lower end is that of parted thighs, and bone did not show it."""
DOUBT, NO_SENSE = 0.4, 0.2
"""Of the whole body: where an end should have been seen, and where the profiles contradict."""


def find_box(hu: npt.NDArray[np.int16], spacing_mm: Triple, *, crop: str, margin_mm: Triple) -> Box:
    """The box that `crop` asks for in a canonical volume (z, y, x) of HU.

    `abdomen`: z-range and body box; `body`: body box over all slices; `none`: the whole volume.
    Without a body the whole volume is returned with confidence 0.
    """
    if crop == "none":
        return whole(_shape(hu))
    coarse = sample(hu, spacing_mm)
    body = find_body(coarse)
    if body.area_mm2.max(initial=0.0) < BODY_MIN_MM2:
        return whole(_shape(hu))
    if crop == "body":
        present = np.flatnonzero(body.area_mm2 > 0)
        bottom, top, confidence, method = int(present[0]), int(present[-1]) + 1, 0.9, "body"
    else:
        bottom, top, confidence = _abdomen_range(coarse, body)
        if not body.mask[bottom:top].any():
            bottom, top, confidence = 0, len(coarse.hu), NO_SENSE
        method = "profile" if confidence >= 0.5 else "body"
    inside = np.any(body.mask[bottom:top], axis=0)
    y, x = (np.flatnonzero(np.any(inside, axis=axis)) for axis in (1, 0))
    margin = np.ceil(np.divide(margin_mm, spacing_mm)).astype(int)
    start = np.array([bottom, y[0], x[0]]) * coarse.step - margin
    stop = np.array([top, y[-1] + 1, x[-1] + 1]) * coarse.step + margin
    a, b, c = np.maximum(start, 0).tolist()
    d, e, f = np.minimum(stop, hu.shape).tolist()
    return Box((a, b, c), (d, e, f), method, confidence)


def _abdomen_range(coarse: Coarse, body: Body) -> tuple[int, int, float]:
    """(bottom, top, confidence) in coarse slices; top is exclusive."""
    count = len(coarse.hu)
    spine, chest = find_spine(coarse, body), find_chest(coarse, body)
    ischium = find_ischium(coarse, body, spine[0]) if spine else None
    bottom = thighs_end(coarse, body) if ischium is None else ischium
    low, high = bottom or 0, count if chest.dome is None else chest.dome
    if (
        chest.odd
        or is_upside_down(coarse, body)
        or (high - low < count and (high - low) * coarse.slice_mm < ABDOMEN_MIN_MM)
    ):
        return 0, count, NO_SENSE
    lung_mm = (chest.slices + chest.one_sided) * coarse.slice_mm
    dome_missed = chest.dome is None and lung_mm > LUNG_END_MM
    pelvis_missed = bottom is None and (spine is None or spine[0] * coarse.slice_mm > SPINE_END_MM)
    no_end = bottom is None and chest.dome is None
    if dome_missed or pelvis_missed or (no_end and not _is_trunk(coarse, body)):
        return 0, count, DOUBT
    if bottom is not None and ischium is None:
        return low, high, PARTED
    return low, high, ENDS[(bottom is not None) + (chest.dome is not None)]


def _is_trunk(coarse: Coarse, body: Body) -> bool:
    """Whether a scan that shows neither dome nor pelvic floor may be a piece of the abdomen."""
    if np.median(body.area_mm2) < TRUNK_MM2:
        return False
    bone = ((coarse.hu > SKULL_HU) & body.mask).sum(axis=(1, 2)) * coarse.pixel_mm2
    return bool(np.all(bone < SKULL_SHARE * np.maximum(body.area_mm2, 1.0)))


def _shape(hu: npt.NDArray[np.int16]) -> tuple[int, int, int]:
    z, y, x = hu.shape
    return (z, y, x)
