"""The box where organ masks exist: they win over what profiles say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from voco_data.masks.organs import ABDOMINAL, UNDER_THE_DOME, OrganBounds
from voco_data.volumes.box import Box, Index
from voco_data.volumes.geometry import Triple

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

    With liver and spleen marked, the highest marked organ is the top. The bottom is the floor of
    the pelvis, which no organ marks: the profiles' where they are trusted, else that of the
    bowel. Whatever is marked is inside, with its margin. Nothing is cut that the profiles keep
    unless both ends are known. Without an abdominal organ, `found`.
    """
    inside = [bounds for name, bounds in organs.items() if name in ABDOMINAL]
    if not inside:
        return found
    margin = np.ceil(np.divide(margin_mm, spacing_mm)).astype(int)
    low = np.maximum(np.min([b.start for b in inside], axis=0) - margin, 0)
    high = np.minimum(np.max([b.stop for b in inside], axis=0) + margin, shape)
    start, stop = np.minimum(found.start, low), np.maximum(found.stop, high)
    trusted = found.confidence >= TRUSTED
    # FLARE's masks are partial: a spleen alone says nothing of the dome over the liver.
    sure = organs.keys() >= UNDER_THE_DOME and (trusted or "bowel" in organs)
    if sure:
        stop[0] = high[0]
        start[0] = start[0] if trusted else low[0]
    a, b, c = start.tolist()
    d, e, f = stop.tolist()
    return Box((a, b, c), (d, e, f), "mask", CERTAIN if sure else found.confidence)
