"""Dice and HD95 of maps: by hand, beside SciPy and MONAI, and of empty maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt

from voco_data.errors import InputError
from voco_models.evaluation.overlap import (
    dice_scores,
    edge_distances_mm,
    hd95_mm,
    hd95_scores_mm,
    summarise_scores,
)

SPACING_MM = (5.0, 0.8)


def random_maps(seed: int, shape: tuple[int, int] = (19, 31)) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping discs with noise on their edges."""
    rng = np.random.default_rng(seed)
    z, w = np.indices(shape)
    maps = []
    for _ in range(2):
        centre, radius = rng.uniform((6, 10), (12, 20)), rng.uniform(3, 7)
        distance = np.hypot(z - centre[0], w - centre[1])
        maps.append(distance + rng.normal(0, 0.7, shape) < radius)
    return maps[0], maps[1]


def hd95_by_scipy(a: np.ndarray, b: np.ndarray, spacing_mm: tuple[float, float]) -> float:
    edges = [mask & ~binary_erosion(mask) for mask in (a, b)]
    distances = [
        distance_transform_edt(~other, sampling=spacing_mm)[edge]
        for edge, other in (edges, edges[::-1])
    ]
    return max(float(np.percentile(each, 95)) for each in distances)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), SPACING_MM, (0.7, 3.0)])
@pytest.mark.parametrize("seed", range(5))
def test_hd95_is_that_of_scipys_distance_transform(
    seed: int, spacing_mm: tuple[float, float]
) -> None:
    a, b = random_maps(seed)
    expected = hd95_by_scipy(a, b, spacing_mm)
    assert hd95_mm(a, b, spacing_mm) == pytest.approx(expected, rel=1e-12)
    assert hd95_mm(b, a, spacing_mm) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call
def test_scores_are_those_of_monai() -> None:
    """Which computes in float32."""
    metrics = pytest.importorskip("monai.metrics")
    pairs = [random_maps(seed) for seed in range(6)]
    predicted, truths = (np.stack(maps).reshape(3, 2, 19, 31) for maps in zip(*pairs, strict=True))
    hd95 = metrics.compute_hausdorff_distance(
        predicted, truths, include_background=True, percentile=95, spacing=SPACING_MM
    )
    np.testing.assert_allclose(
        hd95_scores_mm(predicted.astype(np.float32), truths, SPACING_MM), hd95, rtol=1e-5
    )
    dice = metrics.DiceHelper(
        include_background=True, apply_argmax=False, reduction="none", get_not_nans=False
    )
    expected = dice(torch.from_numpy(predicted).float(), torch.from_numpy(truths).float())
    np.testing.assert_allclose(
        dice_scores(predicted.astype(np.float32), truths), expected, rtol=1e-6
    )


def test_distances_are_those_of_scipy_in_every_pixel() -> None:
    edges = np.random.default_rng(1).random((13, 17)) < 0.05
    found = edge_distances_mm(edges, SPACING_MM)
    np.testing.assert_allclose(found, distance_transform_edt(~edges, sampling=SPACING_MM))


def test_a_map_moved_along_an_axis_is_as_far_as_the_spacing_says() -> None:
    truth = np.zeros((20, 40), bool)
    truth[5:10, 8:30] = True
    for axis, steps, distance_mm in ((0, 3, 15.0), (1, 4, 3.2)):
        moved = np.roll(truth, steps, axis)
        assert hd95_mm(moved, truth, SPACING_MM) == pytest.approx(distance_mm)
    assert hd95_mm(truth, truth, SPACING_MM) == 0


def test_the_edge_of_the_image_is_an_edge_of_the_map() -> None:
    """A map that fills the image has edges at its border, 3 pixels from the middle of 7."""
    full, middle = np.ones((7, 7), bool), np.zeros((7, 7), bool)
    middle[3, 3] = True
    assert hd95_mm(full, middle, (1.0, 1.0)) == pytest.approx(18**0.5)  # 4 of 24 are corners
    assert hd95_mm(full, full, (1.0, 1.0)) == 0


def test_one_far_pixel_in_many_is_beyond_the_percentile() -> None:
    truth = np.zeros((64, 64), bool)
    truth[10:30, 10:30] = True
    noisy = truth.copy()
    noisy[60, 60] = True
    assert hd95_mm(noisy, truth, (1.0, 1.0)) == 0


def test_dice_by_hand_at_a_threshold_of_one_half() -> None:
    probabilities = np.array([[[[0.51, 0.9, 0.5]], [[0.2, 0.6, 0.7]]]])
    truths = np.array([[[[True, False, True]], [[False, True, True]]]])
    np.testing.assert_allclose(dice_scores(probabilities, truths), [[2 * 1 / (2 + 2), 1.0]])


def empty_cases() -> tuple[np.ndarray, np.ndarray]:
    """Channels: both empty, truth empty, prediction empty, disjoint maps."""
    probabilities, truths = np.zeros((1, 4, 3, 8)), np.zeros((1, 4, 3, 8), bool)
    probabilities[0, 1, 1, 1] = probabilities[0, 3, 1, 1] = 1
    truths[0, 2, 1, 1] = truths[0, 3, 1, 5] = True
    return probabilities, truths


def test_empty_maps_are_not_scored_or_score_worst() -> None:
    probabilities, truths = empty_cases()
    np.testing.assert_array_equal(dice_scores(probabilities, truths), [[np.nan, 0, 0, 0]])
    hd95 = hd95_scores_mm(probabilities, truths, (5.0, 2.0))
    np.testing.assert_array_equal(hd95, [[np.nan, np.inf, np.inf, 8]])


def test_a_summary_counts_what_its_mean_leaves_out() -> None:
    probabilities, truths = empty_cases()
    dice = summarise_scores(dice_scores(probabilities, truths))
    assert (dice.mean, dice.n_finite, dice.n_infinite, dice.n_not_scored) == (0, 3, 0, 1)
    hd95 = summarise_scores(hd95_scores_mm(probabilities, truths, (5.0, 2.0)))
    assert (hd95.mean, hd95.n_finite, hd95.n_infinite, hd95.n_not_scored) == (8, 1, 2, 1)
    assert np.isnan(summarise_scores(np.full((2, 2), np.nan)).mean)


def test_channels_without_a_label_are_not_scored() -> None:
    probabilities, truths = empty_cases()
    labelled = np.array([[True, False, True, False]])
    dice = dice_scores(probabilities, truths, labelled)
    hd95 = hd95_scores_mm(probabilities, truths, SPACING_MM, labelled)
    np.testing.assert_array_equal(dice, [[np.nan, np.nan, 0, np.nan]])
    np.testing.assert_array_equal(hd95, [[np.nan, np.nan, np.inf, np.nan]])


def test_each_sample_has_its_spacing() -> None:
    probabilities, truths = (np.repeat(each, 2, axis=0) for each in empty_cases())
    hd95 = hd95_scores_mm(probabilities, truths, [(5.0, 2.0), (5.0, 0.5)])
    assert hd95[:, 3].tolist() == [8.0, 2.0]


def test_what_is_no_probability_or_no_spacing_is_refused() -> None:
    probabilities, truths = empty_cases()
    for wrong in (np.nan, 1.5, -3.0):
        with pytest.raises(ValueError, match="probabilities from 0 to 1"):
            dice_scores(np.where(truths, wrong, probabilities), truths)
    with pytest.raises(ValueError, match=r"got \(1, 4, 3, 8\) and int64 \(1, 4, 3, 8\)"):
        dice_scores(probabilities, truths.astype(np.int64))
    with pytest.raises(ValueError, match=r"labelled of shape \(1, 4\), got \(4,\)"):
        dice_scores(probabilities, truths, np.ones(4, bool))
    for spacing_mm in ((0.0, 1.0), (1.0, float("nan"))):
        with pytest.raises(InputError, match="expected a spacing in mm above 0 along Z and W, got"):
            hd95_scores_mm(probabilities, truths, spacing_mm)
