"""Sizes that no real scan exceeds, checked before anything is allocated for them."""

from __future__ import annotations

import math

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

MAX_VOXELS = 2**31
"""4 GiB of int16: twice the largest volume of FLARE23 (796 x 512 x 2471)."""


def check_voxels(shape: tuple[int, ...]) -> None:
    """Raise SeriesRefused(BAD_GEOMETRY) for a volume that no worker could hold."""
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise SeriesRefused(Reason.BAD_GEOMETRY, f"a size of {shape} voxels")
