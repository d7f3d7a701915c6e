"""Shapes against geometry computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from voco_data.phantom.patient.points import Points, lattice
from voco_data.phantom.patient.shapes import (
    Capsule,
    ClippedShape,
    Disc,
    Ellipsoid,
    OffsetShape,
    Ripple,
    Union,
    inside_share,
    make_ripple,
)


def at(*places: tuple[float, float, float]) -> list[Points]:
    """Each position as a block of one point."""

    def axis(value: float) -> np.ndarray:
        return np.full((1, 1, 1), value, np.float32)

    return [Points(axis(x), axis(y), axis(z)) for x, y, z in places]


def test_ellipsoid_is_zero_on_its_poles_and_signed_inside_and_out():
    shape = Ellipsoid((10, 20, 30), (5, 6, 7))
    poles = at((15, 20, 30), (10, 14, 30), (10, 20, 37))
    assert [float(shape.distance(p)[0, 0, 0]) for p in poles] == pytest.approx([0, 0, 0], abs=1e-5)
    inside, outside = at((11, 20, 30), (18, 20, 30))
    assert float(shape.distance(inside)[0, 0, 0]) < 0
    assert float(shape.distance(outside)[0, 0, 0]) == pytest.approx(3, rel=0.7)


def test_a_sphere_has_its_exact_distance():
    shape = Ellipsoid((0, 0, 0), (5, 5, 5), yaw=0.3, pitch=0.2, roll=-0.4)
    (p,) = at((3, 4, 12))
    assert float(shape.distance(p)[0, 0, 0]) == pytest.approx(13 - 5, abs=1e-4)


@pytest.mark.parametrize(
    ("turn", "pole"),
    [
        ({"pitch": np.pi / 2}, (0, 9, 0)),
        ({"roll": np.pi / 2}, (9, 0, 0)),
    ],
)
def test_turns_move_the_upper_pole_as_documented(turn, pole):
    shape = Ellipsoid((0, 0, 0), (1, 1, 9), **turn)
    (p,) = at(pole)
    assert float(shape.distance(p)[0, 0, 0]) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_the_whole_shape_and_are_tight(seed):
    rng = np.random.default_rng(seed)
    yaw, pitch, roll = rng.uniform(-1, 1, 3)
    shape = Ellipsoid((1, 2, 3), (4, 8, 15), yaw=yaw, pitch=pitch, roll=roll)
    points = lattice(((-30, -30, -30), (30, 30, 30)), 0.5)
    inside = np.argwhere(shape.distance(points) < 0) * 0.5 - 30
    low, high = shape.bounds()
    np.testing.assert_allclose(inside.min(axis=0)[::-1], low, atol=0.8)
    np.testing.assert_allclose(inside.max(axis=0)[::-1], high, atol=0.8)


def test_capsule_and_disc_have_exact_distances():
    capsule = Capsule((0, 0, 0), (10, 0, 0), 2)
    disc = Disc((0, 0, 0), (0, 0, 1), 3)
    side, end, above, beyond = at((5, 3, 4), (13, 4, 0), (1, 1, 2), (7, 0, 3))
    assert float(capsule.distance(side)[0, 0, 0]) == pytest.approx(5 - 2)
    assert float(capsule.distance(end)[0, 0, 0]) == pytest.approx(5 - 2)
    assert float(disc.distance(above)[0, 0, 0]) == pytest.approx(2, abs=1e-3)
    assert float(disc.distance(beyond)[0, 0, 0]) == pytest.approx(5, abs=1e-3)


def test_union_carving_and_growing():
    left, right = Ellipsoid((-3, 0, 0), (2, 2, 2)), Ellipsoid((3, 0, 0), (2, 2, 2))
    (p,) = at((-3, 0, 1))
    both = Union((left, right))
    assert float(both.distance(p)[0, 0, 0]) == pytest.approx(-1, abs=1e-4)
    assert float(ClippedShape(both, within=(right,)).distance(p)[0, 0, 0]) > 0
    assert float(ClippedShape(both, without=(left,)).distance(p)[0, 0, 0]) == pytest.approx(
        1, abs=1e-4
    )
    assert float(OffsetShape(both, 0.5).distance(p)[0, 0, 0]) == pytest.approx(-1.5, abs=1e-4)


def test_ripple_is_the_sum_of_its_waves():
    ripple = Ripple(((0.1, -0.2, 0.3, 0.5, 2.0), (0.0, 0.1, -0.4, 1.0, 3.0)))
    (p,) = at((7, -2, 4))
    expected = 2 * np.sin(0.7 + 0.4 + 1.2 + 0.5) + 3 * np.sin(-0.2 - 1.6 + 1.0)
    assert float(ripple.field(p)[0, 0, 0]) == pytest.approx(expected, abs=1e-5)
    drawn = make_ripple(np.random.default_rng(0), 4, 30)
    assert drawn.height == pytest.approx(4)


def test_cover_is_half_on_the_surface_and_ramps_over_one_voxel():
    got = inside_share(np.array([-9, -1, 0, 1, 9], np.float32), 4.0)
    np.testing.assert_allclose(got, [1, 0.75, 0.5, 0.25, 0])


def test_points_refuse_planes_that_are_not_level():
    block = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(ValueError, match="expected"):
        Points(block, block, np.zeros((2, 1, 1), np.float32))
