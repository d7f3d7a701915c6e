"""Brier score, calibration error and reliability against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from voco_models.evaluation.metrics import unit_counts
from voco_models.evaluation.probability_measures import (
    brier_score,
    calibration_error,
    calibration_error_by_chance,
    reliability_curve,
    remove_weights,
    wilson_interval,
)

SEEDS = st.integers(0, 2**32 - 1)
WEIGHTS = (1.0, 2.0, 4.0)


def drawn(seed: int, count: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) and classes (N,) that were drawn from them, each at least once."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), size=count)
    y = (p.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1).clip(max=classes - 1)
    y[:classes] = np.arange(classes)
    return p, y


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_brier_score_as_scikit_learn(seed: int) -> None:
    p, y = drawn(seed)
    counts = np.random.default_rng(seed).integers(1, 4, size=(3, len(y))).astype(float)
    expected = [
        sklearn_metrics.brier_score_loss(y, p, sample_weight=c, labels=[0, 1, 2]) for c in counts
    ]
    np.testing.assert_allclose(brier_score(p, y, counts), expected, rtol=1e-12)


def test_brier_score_of_two_classes_is_twice_the_binary_one() -> None:
    p, y = drawn(1, classes=2)
    expected = 2 * sklearn_metrics.brier_score_loss(y, p[:, 1])
    assert brier_score(p, y, unit_counts(60)) == pytest.approx([expected], rel=1e-12)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_calibration_error_from_scikit_learns_curve(seed: int) -> None:
    p, y = drawn(seed)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    observed, predicted = calibration_curve(correct, confidence, n_bins=15)
    sizes = np.histogram(confidence, bins=np.linspace(0, 1, 16))[0]
    expected = (sizes[sizes > 0] * abs(observed - predicted)).sum() / len(y)
    (found,) = calibration_error(p, y, unit_counts(len(y)))
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: (.6, .667] has .62 and .65, of which one is right; (.933, 1] has .98, right.
    p = np.array([[0.62, 0.38], [0.65, 0.35], [0.02, 0.98]])
    y = np.array([0, 1, 1])
    expected = (2 * abs(0.5 - 0.635) + 0.02) / 3
    assert calibration_error(p, y, unit_counts(3)) == pytest.approx([expected], rel=1e-12)
    # A resample that holds the first patient twice and the last once.
    expected = (2 * abs(1 - 0.62) + 0.02) / 3
    counts = np.array([[2.0, 0.0, 1.0]])
    assert calibration_error(p, y, counts) == pytest.approx([expected], rel=1e-12)


def test_few_patients_have_a_calibration_error_by_chance() -> None:
    p, _ = drawn(0, 5000)
    sure = np.tile([1.0, 0.0, 0.0], (20, 1))
    rng = np.random.default_rng(0)
    assert calibration_error_by_chance(sure, rng) == 0
    assert calibration_error_by_chance(p, rng, 50) < 0.02
    # One patient with a confidence of .6: the error is .4 or .6, with chances .6 and .4.
    one = np.array([[0.6, 0.4, 0.0]])
    assert calibration_error_by_chance(one, rng, 20_000) == pytest.approx(0.48, abs=0.005)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_reliability_as_scikit_learn(seed: int) -> None:
    p, y = drawn(seed)
    injury, injured = 1 - p[:, 0], y > 0
    observed, predicted = calibration_curve(injured, injury, n_bins=10)
    bins = reliability_curve(injury, injured)
    np.testing.assert_allclose([b.observed.value for b in bins], observed, rtol=1e-12)
    np.testing.assert_allclose([b.predicted for b in bins], predicted, rtol=1e-12)
    assert sum(b.patients for b in bins) == len(y)


def test_weights_are_removed() -> None:
    shares = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    scored = shares * WEIGHTS / (shares * WEIGHTS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(remove_weights(scored, WEIGHTS), shares, rtol=1e-12)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Newcombe 1998, Table I, method 3 (score, without a continuity correction).
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_as_published(hits: int, count: int, low: float, high: float) -> None:
    found = wilson_interval(hits, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == hits / count
    mirrored = wilson_interval(count - hits, count)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))
