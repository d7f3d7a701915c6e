"""Boxes from maps, against ellipsoids of known bounds."""

from __future__ import annotations

import numpy as np
import pytest

from voco_models.localisation.boxes import find_box
from voco_models.localisation.intervals import FloatArray, find_interval

LOW, HIGH = (-200.0, -120.0, -160.0), (120.0, 136.0, 160.0)
"""Of the volume: 320, 256 and 320 mm."""
SHAPE = (64, 32, 64)
PIXEL_MM = (5.0, 8.0, 5.0)


def silhouettes(centre: FloatArray, radii: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coronal and sagittal maps of an ellipsoid in mm: 1 where a fine voxel of it lies."""
    fine = 5
    axes = [
        low + (np.arange(size * fine) + 0.5) * step / fine
        for low, size, step in zip(LOW, SHAPE, PIXEL_MM, strict=True)
    ]
    squares = [((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)]

    def map_of(a: int, b: int) -> FloatArray:
        inside = squares[a][:, None] + squares[b][None] < 1
        blocks = inside.reshape(SHAPE[a], fine, SHAPE[b], fine)
        return blocks.any(axis=(1, 3)).astype(np.float64)

    return map_of(0, 2), map_of(0, 1)


def test_boxes_of_ellipsoids_are_off_by_less_than_a_pixel_and_not_biased() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        radii = rng.uniform((20, 20, 20), (60, 50, 60))
        middle = (np.array(LOW) + HIGH) / 2
        centre = middle + rng.uniform(-40, 40, 3)
        box = find_box(*silhouettes(centre, radii), LOW, HIGH)
        assert box is not None
        assert box.confidence > 0.85
        errors.append(
            np.concatenate([box.low_mm - (centre - radii), box.high_mm - (centre + radii)])
        )
    found = np.abs(errors)
    assert (found <= np.tile(PIXEL_MM, 2) + 1e-6).all()
    means = np.mean(errors, axis=0) / np.tile(PIXEL_MM, 2)
    assert np.abs(means).max() < 0.2  # of a pixel


def test_noise_beside_the_organ_is_left_out() -> None:
    coronal, sagittal = silhouettes(np.array([-40.0, 0, 0]), np.array([50.0, 40, 50]))
    clean = find_box(coronal, sagittal, LOW, HIGH)
    assert clean is not None
    for place in ((60, 60), (2, 5)):  # a pixel far above, and one far below
        coronal[place] = 0.9
    noisy = find_box(coronal, sagittal, LOW, HIGH)
    assert noisy is not None
    assert (noisy.low_mm, noisy.high_mm) == (clean.low_mm, clean.high_mm)


def test_a_second_large_part_belongs_to_the_organ() -> None:
    """Such as loops of the bowel."""
    profile = np.array([0.0, 0, 1, 1, 1, 0, 0, 1, 1, 0])
    interval = find_interval(profile, profile)
    assert interval is not None
    assert interval == pytest.approx((2.4, 8.6))  # half a pixel inside, less a tenth: the threshold


def test_an_end_lies_where_the_probability_crosses_the_threshold() -> None:
    """Middles of pixels 2 and 3 have 0.2 and 0.8: 0.4 is after a third of the way from 2.5."""
    profile = np.array([0.0, 0.0, 0.2, 0.8, 1.0, 1.0, 0.6, 0.1, 0.0])
    interval = find_interval(profile, profile)
    assert interval is not None
    assert interval.low == pytest.approx(2.5 + 1 / 3 + 0.5)
    assert interval.high == pytest.approx(6.5 + 0.4 - 0.5)  # 0.6 to 0.1 crosses after 0.4


def test_an_organ_that_leaves_the_volume_ends_with_it() -> None:
    profile = np.array([1.0, 1.0, 1.0, 0.0])
    interval = find_interval(profile, profile)
    assert interval is not None
    assert interval.low == 0.0


def test_an_organ_of_one_pixel_has_its_size() -> None:
    profile = np.array([0.0, 1.0, 0.0])
    assert find_interval(profile, profile) == pytest.approx((1.0, 2.0))


def test_an_organ_that_one_map_does_not_show_has_no_box() -> None:
    coronal, sagittal = silhouettes(np.array([-40.0, 0, 0]), np.array([50.0, 40, 50]))
    assert find_box(coronal, 0.3 * sagittal, LOW, HIGH) is None
    assert find_box(0.3 * coronal, sagittal, LOW, HIGH) is None


def test_maps_that_contradict_each_other_lower_the_confidence() -> None:
    one = silhouettes(np.array([-40.0, 0, 0]), np.array([50.0, 40, 50]))
    higher = silhouettes(np.array([20.0, 0, 0]), np.array([50.0, 40, 50]))
    agreed, contradicted = (find_box(one[0], maps[1], LOW, HIGH) for maps in (one, higher))
    assert agreed is not None
    assert contradicted is not None
    assert contradicted.confidence < 0.5 * agreed.confidence
