"""The box where organ masks exist: they win over what profiles say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from voco_data.box import Box, Index
from voco_data.geometry import Triple
from voco_data.organs import ABDOMINAL, UNDER_THE_DOME, OrganBounds

CERTAIN = 1.0
TRUSTED = 0.5
"""A box of profiles with less confidence than this is a fallback."""


def include_organs(
    found: Box,
    organs: Mapping[str, OrganBounds],
    shape: Index,
    spacing_mm: Triple,
    margin_mm: Triple,
) -> Box:
    """`found`, the box of the profiles, corrected by the organs that a mask shows.

    With liver or spleen marked, the highest marked organ is the top. The bottom is the floor of
    the pelvis, which no organ marks: the profiles' where they are trusted, else that of the
    bowel. Whatever is marked is inside, with its margin. Without an abdominal organ, `found`.
    """
    inside = [bounds for name, bounds in organs.items() if name in ABDOMINAL]
    if not inside:
        return found
    margin = np.ceil(np.divide(margin_mm, spacing_mm)).astype(int)
    low = np.maximum(np.min([b.start for b in inside], axis=0) - margin, 0)
    high = np.minimum(np.max([b.stop for b in inside], axis=0) + margin, shape)
    start, stop = np.minimum(found.start, low), np.maximum(found.stop, high)
    has_top = bool(UNDER_THE_DOME & organs.keys())
    trusted = found.confidence >= TRUSTED
    if has_top:
        stop[0] = high[0]
    if not trusted and "bowel" in organs:
        start[0] = low[0]
    sure = has_top and (trusted or "bowel" in organs)
    a, b, c = start.tolist()
    d, e, f = stop.tolist()
    return Box((a, b, c), (d, e, f), "mask", CERTAIN if sure else found.confidence)
