"""Area averages on maps: means are kept, and each pixel is that of a much finer sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from voco_data.paired_images.map_area import MapArea, average_onto, overlap_shares

lengths = st.integers(1, 40)
ends_mm = st.tuples(st.floats(-200, 200), st.floats(1, 400)).map(lambda e: (e[0], e[0] + e[1]))


def area(
    shape: tuple[int, int],
    rows_mm: tuple[float, float] = (0.0, 1.0),
    columns_mm: tuple[float, float] = (0.0, 1.0),
) -> MapArea:
    return MapArea("coronal", shape, rows_mm, columns_mm)


@given(shape=st.tuples(lengths, lengths), grid=st.tuples(lengths, lengths), seed=st.integers(0, 99))
def test_the_mean_of_an_image_is_kept(
    shape: tuple[int, int], grid: tuple[int, int], seed: int
) -> None:
    values = np.random.default_rng(seed).uniform(-5, 5, shape)
    placed = average_onto(area(grid), values, np.ones(shape, bool), (0.0, 1.0), (0.0, 1.0))
    assert placed.is_valid.all()
    np.testing.assert_allclose(placed.values.mean(), values.mean(), rtol=0, atol=1e-9)


@given(n_given=lengths, given_mm=ends_mm, n_wanted=lengths, wanted_mm=ends_mm)
def test_shares_are_the_length_that_two_ranges_have_in_common(
    n_given: int, given_mm: tuple[float, float], n_wanted: int, wanted_mm: tuple[float, float]
) -> None:
    shares = overlap_shares(given_mm, n_given, wanted_mm, n_wanted)
    assert shares.shape == (n_wanted, n_given)
    assert shares.min() >= 0
    common = max(0.0, min(given_mm[1], wanted_mm[1]) - max(given_mm[0], wanted_mm[0]))
    pixel_mm = (wanted_mm[1] - wanted_mm[0]) / n_wanted
    np.testing.assert_allclose(shares.sum() * pixel_mm, common, rtol=0, atol=1e-6)
    assert (shares.sum(axis=1) <= 1 + 1e-9).all()


def test_pixels_are_those_of_a_fine_sampling() -> None:
    """Other spacings and another position: every pixel is the mean of 200 x 200 nearest values."""
    values = np.random.default_rng(0).uniform(0, 1, (13, 17))
    rows_mm, columns_mm = (-10.0, 29.0), (-4.0, 30.0)
    wanted = area((5, 7), (-5.0, 23.0), (1.0, 27.0))
    placed = average_onto(wanted, values, np.ones(values.shape, bool), rows_mm, columns_mm)
    fine = []
    for (low, high), n, (start, end), count in (
        (wanted.rows_mm, 5, rows_mm, 13),
        (wanted.columns_mm, 7, columns_mm, 17),
    ):
        places = low + (np.arange(n * 200) + 0.5) * (high - low) / (n * 200)
        fine.append(((places - start) / (end - start) * count).astype(int))
    sampled = values[fine[0]][:, fine[1]].reshape(5, 200, 7, 200).mean(axis=(1, 3))
    assert placed.is_valid.all()
    np.testing.assert_allclose(placed.values, sampled, rtol=0, atol=5e-3)


def test_only_pixels_that_are_covered_wholly_are_valid() -> None:
    """3 pixels of 10 mm from 5 to 35 mm, on 4 pixels from 0 to 40 mm."""
    values = np.full((8, 3), 7.0)
    placed = average_onto(
        area((8, 4), columns_mm=(0.0, 40.0)), values, np.ones((8, 3), bool), (0, 1), (5.0, 35.0)
    )
    assert placed.is_valid.tolist() == [[False, True, True, False]] * 8
    assert placed.values.tolist() == [[0.0, 7.0, 7.0, 0.0]] * 8
    assert placed.coverage == 0.5


def test_pixels_that_are_not_measured_are_left_out_of_no_mean() -> None:
    """A pixel of the map that holds one of them is not valid; their values do not matter."""
    values = np.arange(64.0).reshape(8, 8)
    measured = np.ones((8, 8), bool)
    values[1, 2], measured[1, 2] = np.nan, False
    placed = average_onto(area((4, 4)), values, measured, (0.0, 1.0), (0.0, 1.0))
    expected = np.ones((4, 4), bool)
    expected[0, 1] = False
    np.testing.assert_array_equal(placed.is_valid, expected)
    assert placed.values[0, 1] == 0.0
    assert placed.values[3, 3] == pytest.approx(np.mean([54, 55, 62, 63]))


def test_the_same_grid_is_left_as_it_is() -> None:
    values = np.random.default_rng(1).uniform(0, 1, (96, 61))
    ends = (-61.3, 98.7), (-333.25, -11.5)
    placed = average_onto(area((96, 61), *ends), values, np.ones(values.shape, bool), *ends)
    np.testing.assert_array_equal(placed.values, values)
    assert placed.is_valid.all()


def test_shares_of_areas() -> None:
    one = area((4, 4), (0.0, 100.0), (0.0, 50.0))
    other = area((4, 4), (50.0, 300.0), (-10.0, 25.0))
    assert one.share_in(other) == pytest.approx(0.25)
    assert other.share_in(one) == pytest.approx(50 / 250 * 25 / 35)
    assert one.share_in(area((4, 4), (200.0, 300.0), (0.0, 50.0))) == 0.0
