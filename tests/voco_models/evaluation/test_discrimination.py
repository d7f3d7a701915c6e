"""ROC curves against scikit-learn, pairs counted one by one, and repeated patients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sklearn_metrics

from voco_models.evaluation.discrimination import auroc, mean_of_defined, roc_curve
from voco_models.evaluation.metrics import unit_counts


def drawn(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, (N,), and a truth with both values."""
    rng = np.random.default_rng(seed)
    return rng.integers(6, size=count) / 5, np.append(rng.random(count - 2) < 0.3, [True, False])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_area_as_scikit_learn_with_ties_and_counts(seed: int) -> None:
    score, positive = drawn(seed)
    counts = np.random.default_rng(seed).integers(0, 4, size=(5, len(score))).astype(float)
    counts[:, -2:] += 1  # one of both classes in each
    found = auroc(score, positive, counts)
    expected = [sklearn_metrics.roc_auc_score(positive, score, sample_weight=c) for c in counts]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_area_is_the_share_of_pairs_in_order() -> None:
    score, positive = drawn(3)
    pairs = list(itertools.product(score[positive], score[~positive]))
    won = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
    assert auroc(score, positive, unit_counts(40)) == pytest.approx([won / len(pairs)], rel=1e-12)


def test_area_without_one_of_both_is_not_defined() -> None:
    score, counts = np.array([0.1, 0.9]), np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    found = auroc(score, np.array([False, True]), counts)
    np.testing.assert_array_equal(found, [1.0, np.nan, np.nan])
    assert np.isnan(auroc(score, np.array([True, True]), counts)).all()


@pytest.mark.parametrize("seed", range(5))
def test_curve_as_scikit_learn(seed: int) -> None:
    score, positive = drawn(seed)
    false, true = roc_curve(score, positive)
    expected = sklearn_metrics.roc_curve(positive, score, drop_intermediate=False)
    # Every point of scikit-learn's is on ours, and ours has no other corner.
    np.testing.assert_allclose(
        np.interp(np.unique(expected[0]), false, true, left=0),
        np.interp(np.unique(expected[0]), expected[0], expected[1]),
        atol=1e-12,
    )
    assert {*zip(false, true, strict=True)} <= {*zip(expected[0], expected[1], strict=True)}
    area = float(np.trapezoid(true, false))
    assert area == pytest.approx(sklearn_metrics.roc_auc_score(positive, score), rel=1e-12)


def test_curve_of_a_perfect_score_has_three_corners() -> None:
    positive = np.arange(10) > 6
    false, true = roc_curve(np.arange(10.0), positive)
    assert (false.tolist(), true.tolist()) == ([0, 0, 1], [0, 1, 1])


def test_means_leave_out_what_is_not_defined() -> None:
    cells = [np.array([1.0, np.nan, np.nan]), np.array([0.5, 0.25, np.nan])]
    np.testing.assert_array_equal(mean_of_defined(cells), [0.75, 0.25, np.nan])
