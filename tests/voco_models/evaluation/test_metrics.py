"""Scores against the published test vector, hand-computed values and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sklearn_metrics

from voco_data.labels.targets import ORGAN_TARGETS, RSNA_TARGETS
from voco_models.evaluation import metrics
from voco_models.evaluation.bootstrap import bootstrap_interval

ORGANS = ORGAN_TARGETS.names


def binary(injured: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(injured), injured], axis=1)


# The four-patient vector that the competition's own metric code was run on.
TRUTHS = {
    "bowel": np.array([0, 1, 0, 0]),
    "extravasation": np.array([0, 0, 1, 0]),
    "kidney": np.array([0, 0, 1, 2]),
    "liver": np.array([0, 1, 0, 2]),
    "spleen": np.array([0, 0, 2, 0]),
}
CHANCES = {
    "bowel": binary([0.05, 0.60, 0.10, 0.02]),
    "extravasation": binary([0.10, 0.20, 0.70, 0.05]),
    "kidney": np.array(
        [[0.90, 0.07, 0.03], [0.80, 0.15, 0.05], [0.30, 0.50, 0.20], [0.20, 0.20, 0.60]]
    ),
    "liver": np.array(
        [[0.85, 0.10, 0.05], [0.25, 0.60, 0.15], [0.70, 0.20, 0.10], [0.10, 0.30, 0.60]]
    ),
    "spleen": np.array(
        [[0.90, 0.05, 0.05], [0.60, 0.30, 0.10], [0.10, 0.40, 0.50], [0.75, 0.15, 0.10]]
    ),
}
EXPECTED = {
    "bowel": 0.239702,
    "extravasation": 0.279983,
    "kidney": 0.469763,
    "liver": 0.448018,
    "spleen": 0.525208,
    "any_injury": 0.165944,
    "rsna_official_6": 0.354770,
    "rsna_organ_3": 0.480996,
    "rsna_organ_3_any": 0.402233,
}
RATIC_2023 = {"kidney": (115, 67), "liver": (259, 62), "spleen": (199, 155)}
RATIC_PATIENTS = 3147


def test_official_vector_to_six_decimals() -> None:
    assert metrics.rsna_scores(CHANCES, TRUTHS) == pytest.approx(EXPECTED, abs=5e-7)


def test_kidney_by_hand() -> None:
    total = -math.log(0.9) - math.log(0.8) - 2 * math.log(0.5) - 4 * math.log(0.6)
    assert metrics.rsna_scores(CHANCES, TRUTHS)["kidney"] == pytest.approx(total / 8, rel=1e-12)


def test_three_groups_have_no_official_score() -> None:
    organs = {organ: CHANCES[organ] for organ in ORGANS}
    scores = metrics.rsna_scores(organs, TRUTHS)
    assert "rsna_official_6" not in scores
    assert scores["rsna_organ_3"] == pytest.approx(0.480996, abs=5e-7)


def test_rows_are_renormalised() -> None:
    scaled = {group: p * 3.7 for group, p in CHANCES.items()}
    assert metrics.rsna_scores(scaled, TRUTHS) == pytest.approx(EXPECTED, abs=5e-7)


def test_a_probability_of_zero_is_clipped_to_float64_eps() -> None:
    loss = metrics.patient_losses(np.array([[1, 0, 0]], np.float32), np.array([1]))
    assert loss == pytest.approx([-math.log(np.finfo(np.float64).eps)])
    assert loss == pytest.approx([36.04], abs=0.005)


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [0.5, -0.1, 0.6], [0.5, math.nan, 0.5]])
def test_rows_that_are_no_probabilities_are_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        metrics.weighted_log_loss(np.array([row]), np.array([0]), (1, 2, 4))


def test_unknown_and_missing_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"missing.*spleen"):
        metrics.rsna_scores({o: CHANCES[o] for o in ("kidney", "liver")}, TRUTHS)
    with pytest.raises(ValueError, match=r"unknown.*heart"):
        metrics.rsna_scores(CHANCES | {"heart": CHANCES["bowel"]}, TRUTHS)


predictions = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        np.random.default_rng(seed).dirichlet((1, 1, 1), size=25),
        np.append(np.random.default_rng(seed + 1).integers(3, size=22), [0, 1, 2]),
    )
)


@given(predictions)
@settings(max_examples=30, deadline=None)
def test_log_loss_as_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = case
    expected = sklearn_metrics.log_loss(y, p, sample_weight=np.array([1, 2, 4])[y])
    assert metrics.weighted_log_loss(p, y, (1, 2, 4)) == pytest.approx(expected, rel=1e-12)


@given(predictions)
@settings(max_examples=30, deadline=None)
def test_average_precision_as_scikit_learn_with_ties(case: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = case
    for c in range(3):
        score = np.round(p[:, c], 1)
        expected = sklearn_metrics.average_precision_score(y == c, score)
        (found,) = metrics.average_precision(score, y == c, metrics.unit_counts(len(y)))
        assert found == pytest.approx(expected, rel=1e-12)


@given(predictions)
@settings(max_examples=30, deadline=None)
def test_precision_and_recall_as_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = case
    truths = dict.fromkeys(ORGANS, y)
    predicted = {
        "kidney": p.argmax(axis=1),
        "liver": np.zeros_like(y),
        "spleen": p[::-1].argmax(axis=1),
    }
    pairs = [
        sklearn_metrics.precision_recall_fscore_support(
            y, predicted[organ], average="macro", labels=[0, 1, 2], zero_division=0
        )[:2]
        for organ in ORGANS
    ]
    expected = np.mean(pairs, axis=0)
    found = metrics.macro_precision_recall(predicted, truths, metrics.unit_counts(len(y)))
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-12)


def test_average_precision_by_hand() -> None:
    # Found at ranks 1 and 3 of 4: (1/1 + 2/3) / 2.
    score, positive = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    everyone = metrics.unit_counts(4)
    assert metrics.average_precision(score, positive, everyone) == pytest.approx([5 / 6])
    assert np.isnan(metrics.average_precision(score, np.zeros(4, bool), everyone)).all()


def test_classes_without_patients_are_left_out() -> None:
    y = np.array([0, 0, 1, 1])
    right = np.eye(3)[y]
    truths = dict.fromkeys(ORGANS, y)
    everyone = metrics.unit_counts(4)
    assert metrics.mean_average_precision(dict.fromkeys(ORGANS, right), truths, everyone) == [1.0]
    assert metrics.macro_precision_recall(truths, truths, everyone) == ([1.0], [1.0])


@given(predictions, st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_counts_are_repeated_patients(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    p, y = case
    rows = np.random.default_rng(seed).integers(len(y), size=len(y))
    counts = np.bincount(rows, minlength=len(y)).astype(float)[None]
    truths, chances = dict.fromkeys(ORGANS, y), dict.fromkeys(ORGANS, np.round(p, 1) + 0.01)
    again = {o: t[rows] for o, t in truths.items()}, {o: c[rows] for o, c in chances.items()}
    decided = {o: c.argmax(axis=1) for o, c in chances.items()}
    everyone = metrics.unit_counts(len(y))
    terms = metrics.patient_terms(chances, truths)
    expected = metrics.rsna_scores(again[1], again[0])
    assert {k: v[0] for k, v in terms.scores(counts).items()} == pytest.approx(expected)
    np.testing.assert_allclose(
        metrics.mean_average_precision(chances, truths, counts),
        metrics.mean_average_precision(again[1], again[0], everyone),
    )
    np.testing.assert_allclose(
        metrics.macro_precision_recall(decided, truths, counts),
        metrics.macro_precision_recall(
            {o: d[rows] for o, d in decided.items()}, again[0], everyone
        ),
    )


def test_any_injury_is_the_largest_over_groups() -> None:
    p, y = metrics.any_injury(CHANCES, TRUTHS)
    np.testing.assert_allclose(p[:, 1], [0.15, 0.75, 0.9, 0.9])
    np.testing.assert_array_equal(y, [0, 1, 1, 1])


def ratic_organ_3(make: object) -> float:
    losses = []
    for organ, (low, high) in RATIC_2023.items():
        y = np.repeat([0, 1, 2], [RATIC_PATIENTS - low - high, low, high])
        constant = make(y)  # type: ignore[operator]
        p = np.tile(constant, (len(y), 1))
        losses.append(metrics.weighted_log_loss(p, y, RSNA_TARGETS[organ].weights))
    return float(np.mean(losses))


def test_floors_of_the_2023_labels() -> None:
    assert ratic_organ_3(lambda y: metrics.prior_constant(y, 3)) == pytest.approx(0.7167, abs=5e-5)
    optimal = ratic_organ_3(lambda y: metrics.optimal_constant(y, (1, 2, 4)))
    assert optimal == pytest.approx(0.6409, abs=5e-5)


@given(st.lists(st.integers(0, 2), min_size=3, max_size=30), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_no_constant_beats_the_optimal_one(grades: list[int], seed: int) -> None:
    y = np.array([*grades, 0, 1, 2])
    best = metrics.optimal_constant(y, (1, 2, 4), absent_count=0)
    other = np.random.default_rng(seed).dirichlet((1, 1, 1))

    def loss(p: np.ndarray) -> float:
        return metrics.weighted_log_loss(np.tile(p, (len(y), 1)), y, (1, 2, 4))

    assert loss(best) <= loss(0.9 * best + 0.1 * other) + 1e-12


def test_a_class_without_patients_keeps_a_probability() -> None:
    constant = metrics.prior_constant(np.array([0, 0, 1]), 3)
    np.testing.assert_allclose(constant, [2 / 3.5, 1 / 3.5, 0.5 / 3.5])


def test_bootstrap_interval_of_a_mean_as_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    found = bootstrap_interval(
        lambda counts: {"mean": counts @ values / 400}, 400, np.random.default_rng(1)
    )["mean"]
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)


def test_bootstrap_of_a_difference_is_paired() -> None:
    noise = np.random.default_rng(0).normal(0, 10, 50)

    def statistic(counts: np.ndarray) -> dict[str, np.ndarray]:
        a, b = counts @ noise / 50, counts @ (noise + 0.1) / 50
        return {"a": a, "gain": b - a}

    found = bootstrap_interval(statistic, 50, np.random.default_rng(1), resamples=200)
    assert found["gain"].low == pytest.approx(0.1)
    assert found["gain"].high == pytest.approx(0.1)
    assert found["a"].high - found["a"].low > 1
    again = bootstrap_interval(statistic, 50, np.random.default_rng(1), resamples=200)
    assert again == found


def test_bootstrap_leaves_out_undefined_resamples() -> None:
    def statistic(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {"v": np.where(counts[:, 0] == 0, np.nan, 1.0)}

    found = bootstrap_interval(statistic, 3, np.random.default_rng(0), resamples=50)["v"]
    assert (found.low, found.high) == (1.0, 1.0)
