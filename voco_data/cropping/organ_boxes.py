"""Correct the box of the abdomen from HU by the organs that masks show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from voco_data.cropping.abdomen import TRUSTED_CONFIDENCE
from voco_data.masks import ABDOMINAL_ORGANS, SUBDIAPHRAGMATIC_ORGANS, OrganBounds
from voco_data.volumes import Box, Index, Triple

MASK_CONFIDENCE = 1.0
"""Confidence of a box whose ends are set by organs."""


def include_organs(
    profile_box: Box,
    organs: Mapping[str, OrganBounds],
    shape: Index,
    spacing_mm: Triple,
    margin_mm: Triple,
) -> Box:
    """`profile_box`, the box from HU, corrected by the organs of a mask.

    The box contains all abdominal organs of the mask, with `margin_mm`. If it has liver and spleen,
    the top is that of the highest organ. No organ marks the floor of the pelvis, so the bottom is
    that of `profile_box` if it is trusted, else that of the bowel. Unless both ends are known, the
    box is only enlarged. Without an abdominal organ it is `profile_box`.
    """
    abdominal = [bounds for name, bounds in organs.items() if name in ABDOMINAL_ORGANS]
    if not abdominal:
        return profile_box
    margin = np.ceil(np.divide(margin_mm, spacing_mm)).astype(int)
    low = np.maximum(np.min([bounds.start for bounds in abdominal], axis=0) - margin, 0)
    high = np.minimum(np.max([bounds.stop for bounds in abdominal], axis=0) + margin, shape)
    start, stop = np.minimum(profile_box.start, low), np.maximum(profile_box.stop, high)
    is_trusted = profile_box.confidence >= TRUSTED_CONFIDENCE
    # FLARE's masks are partial: the spleen alone does not give the dome over the liver.
    knows_both_ends = organs.keys() >= SUBDIAPHRAGMATIC_ORGANS and (is_trusted or "bowel" in organs)
    if knows_both_ends:
        stop[0] = high[0]
        start[0] = start[0] if is_trusted else low[0]
    a, b, c = start.tolist()
    d, e, f = stop.tolist()
    confidence = MASK_CONFIDENCE if knows_both_ends else profile_box.confidence
    return Box((a, b, c), (d, e, f), "mask", confidence)
