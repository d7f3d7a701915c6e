"""Permutations and flips against positions computed voxel by voxel."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes.geometry import Geometry

AXES = np.eye(3)[::-1]  # z, y, x as LPS unit vectors


def position(geometry: Geometry, index: tuple[int, int, int]) -> np.ndarray:
    offsets = np.multiply(index, geometry.spacing_mm) @ np.asarray(geometry.axes)
    return np.asarray(geometry.origin_mm) + offsets


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_canonical_index_grows_superior_posterior_left(
    order: tuple[int, int, int], signs: tuple[int, int, int]
) -> None:
    axes = tuple(tuple(s * AXES[o]) for s, o in zip(signs, order, strict=True))
    geometry = Geometry((4, 5, 6), (3.0, 2.0, 1.5), (10.0, -20.0, 30.0), axes)
    canonical = geometry.canonical(5.0)
    labels = np.arange(4 * 5 * 6).reshape(geometry.shape)
    turned = canonical.to_canonical(labels)
    assert turned.shape == canonical.shape
    for index in [(0, 0, 0), (canonical.shape[0] - 1, 1, 2), (1, canonical.shape[1] - 1, 0)]:
        native = np.unravel_index(int(turned[index]), geometry.shape)
        x, y, z = position(geometry, native)
        expected = np.add(canonical.first_mm, np.multiply(index, canonical.spacing_mm))
        assert np.allclose(expected, (z, y, x))


def test_five_degrees_are_kept_and_six_refused() -> None:
    for degrees, kept in ((4.9, True), (6.0, False)):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        axes = ((0.0, 0.0, 1.0), (-s, c, 0.0), (c, s, 0.0))
        geometry = Geometry((2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
        if kept:
            assert geometry.canonical(5.0).permutation == (0, 1, 2)
        else:
            assert not geometry.is_aligned(5.0)
            with pytest.raises(ValueError, match=r"6\.0 degrees"):
                geometry.canonical(5.0)


@pytest.mark.parametrize(
    ("spacing", "axes"),
    [
        ((0.0, 1.0, 1.0), AXES),
        ((1.0, 1.0, 80.0), AXES),
        ((1.0, math.nan, 1.0), AXES),
        ((1.0, 1.0, 1.0), [[0, 0, 1], [0, 1, 0], [0, 1, 0]]),
        ((1.0, 1.0, 1.0), [[0, 0, 2], [0, 1, 0], [1, 0, 0]]),
        ((1.0, 1.0, 1.0), [[0, 0, 1], [0, 1, 0], [math.inf, 0, 0]]),
    ],
)
def test_impossible_geometry_is_refused(spacing: tuple[float, ...], axes: np.ndarray) -> None:
    rows = tuple(tuple(float(v) for v in row) for row in axes)
    with pytest.raises(SeriesRefused) as caught:
        Geometry((2, 2, 2), spacing, (0.0, 0.0, 0.0), rows)
    assert caught.value.reason == Reason.BAD_GEOMETRY
