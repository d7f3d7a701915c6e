"""Voxels that boxes keep: of a cube by hand, and as `voco preprocess --boxes` would cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tests.support.small_stores import make_record
from voco_data.cropping.external_boxes import GivenBox
from voco_data.store.archive_mask import ArchiveMask, ProfileBox
from voco_data.store.spec import StoreSpec
from voco_data.volumes.geometry import CANONICAL_AXES, Box, Canonical, Geometry
from voco_models.localisation.kept_voxels import OrganVoxels

SHAPE = (20, 24, 28)
SPACING_MM = (2.5, 1.0, 0.75)
FIRST_MM = (-100.0, -12.0, 7.0)
EDGE_MM = tuple(first - step / 2 for first, step in zip(FIRST_MM, SPACING_MM, strict=True))
NAN = float("nan")


def in_mm(index: tuple[float, float, float]) -> tuple[float, float, float]:
    """LPS coordinates of the lower edges of a voxel."""
    z, y, x = (e + i * s for e, i, s in zip(EDGE_MM, index, SPACING_MM, strict=True))
    return z, y, x


def cube_mask() -> ArchiveMask:
    """A cube of 8 voxels, and in its box a corner of another label."""
    voxels = np.zeros(SHAPE, np.uint16)
    voxels[4:12, 6:14, 10:18] = 5
    voxels[4:6, 6:8, 10:12] = 9
    volume = np.zeros((4, 4, 4), np.uint8)
    record = replace(
        make_record(0, volume, StoreSpec("small", (4, 4, 4)), "a"),
        canonical_shape=SHAPE,
        canonical_first_mm=FIRST_MM,
        spacing_mm=SPACING_MM,
        organs={"liver": (in_mm((4, 6, 10)), in_mm((12, 14, 18)))},
    )
    box = ProfileBox((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.9, 0.0)
    return ArchiveMask(record, voxels, {"liver": frozenset({5})}, box)


@pytest.mark.parametrize(
    ("low", "high", "kept"),
    [
        ((4, 6, 10), (12, 14, 18), 512 - 8),
        ((-50, -50, -50), (90, 90, 90), 512 - 8),
        ((8, 6, 10), (12, 14, 18), 256),  # half of the slices
        ((8, 10, 14), (12, 14, 18), 64),  # an eighth
        ((4, 6, 10), (6, 8, 12), 0),  # the other label
        ((12, 6, 10), (19, 14, 18), 0),  # beside it
        ((8.4, 6, 10), (12, 14, 18), 256),  # slice 8 by more than half
        ((8.6, 6, 10), (12, 14, 18), 192),  # and by less
        ((8, NAN, NAN), (12, NAN, NAN), 256),  # open in the plane
    ],
)
def test_kept_voxels_of_a_cube(low: tuple, high: tuple, kept: int) -> None:  # type: ignore[type-arg]
    cube = OrganVoxels(cube_mask(), "liver")
    assert cube.count == 512 - 8
    assert cube.count_in(in_mm(low), in_mm(high)) == kept


ends = st.tuples(*[st.floats(-5, 33)] * 3)


@settings(max_examples=150, deadline=None)
@given(ends, ends)
def test_a_box_keeps_what_preprocessing_cuts_out(
    one: tuple[float, float, float], other: tuple[float, float, float]
) -> None:
    low, high = in_mm(np.minimum(one, other)), in_mm(np.maximum(one, other))  # type: ignore[arg-type]
    mask = cube_mask()
    z, y, x = CANONICAL_AXES
    geometry = Geometry(SHAPE, SPACING_MM, (FIRST_MM[2], FIRST_MM[1], FIRST_MM[0]), (z, y, x))
    canonical = Canonical(geometry, (0, 1, 2), (False, False, False))
    given_box = GivenBox(low[0], high[0], low[1], high[1], low[2], high[2], "a", 1.0)
    found = OrganVoxels(mask, "liver").count_in(low, high)
    edges = np.divide(np.subtract([low, high], EDGE_MM), SPACING_MM)
    start, stop = np.clip(np.rint(edges), 0, SHAPE)
    if (start >= stop).any():  # preprocessing refuses such a box
        assert found == 0
        return
    cut = given_box.to_voxels(canonical, Box.whole(SHAPE))
    inside = mask.voxels[tuple(map(slice, cut.start, cut.stop))]
    assert found == (inside == 5).sum()
