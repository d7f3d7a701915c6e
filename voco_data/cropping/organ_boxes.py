"""The box of the abdomen where masks show organs: they correct the box that was found from HU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from voco_data.cropping.abdomen import TRUSTED_CONFIDENCE
from voco_data.masks import ABDOMINAL, UNDER_THE_DOME, OrganBounds
from voco_data.volumes import Box, Index, Triple

MASK_CONFIDENCE = 1.0
"""Confidence of a box whose ends are set by organs."""


def include_organs(
    found: Box,
    organs: Mapping[str, OrganBounds],
    shape: Index,
    spacing_mm: Triple,
    margin_mm: Triple,
) -> Box:
    """`found`, the box of the profiles, corrected by the organs of a mask.

    Marked abdominal organs are inside the box, with `margin_mm`. With liver and spleen marked, the
    highest marked organ is the top. The bottom is the floor of the pelvis, which no organ marks:
    that of the profiles where they are trusted, else that of the bowel. Unless both ends are known,
    the box is only enlarged. Without an abdominal organ it is `found`.
    """
    abdominal = [bounds for name, bounds in organs.items() if name in ABDOMINAL]
    if not abdominal:
        return found
    margin = np.ceil(np.divide(margin_mm, spacing_mm)).astype(int)
    low = np.maximum(np.min([bounds.start for bounds in abdominal], axis=0) - margin, 0)
    high = np.minimum(np.max([bounds.stop for bounds in abdominal], axis=0) + margin, shape)
    start, stop = np.minimum(found.start, low), np.maximum(found.stop, high)
    is_trusted = found.confidence >= TRUSTED_CONFIDENCE
    # FLARE's masks are partial: the spleen alone does not give the dome over the liver.
    knows_both_ends = organs.keys() >= UNDER_THE_DOME and (is_trusted or "bowel" in organs)
    if knows_both_ends:
        stop[0] = high[0]
        start[0] = start[0] if is_trusted else low[0]
    a, b, c = start.tolist()
    d, e, f = stop.tolist()
    confidence = MASK_CONFIDENCE if knows_both_ends else found.confidence
    return Box((a, b, c), (d, e, f), "mask", confidence)
