"""Thresholds and calibration: fitted on the given predictions only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from voco_data.labels.targets import ORGAN_TARGETS
from voco_models.evaluation import decision, metrics, predictions
from voco_models.evaluation.calibration import Calibration, fit_calibration
from voco_models.evaluation.decision import Thresholds, decide, fit_thresholds, macro_f1

ORGANS = ORGAN_TARGETS.names

WEIGHTS = (1.0, 2.0, 4.0)


def cohort(seed: int, count: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Classes drawn from known posteriors: (posterior (N, 3), class (N,))."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, size=(count, 3)) + np.array([1.5, 0, -0.5])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (p.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return p, y


def for_all(value: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(ORGANS, value)


def test_equal_thresholds_are_the_argmax() -> None:
    p = np.random.default_rng(0).dirichlet((1, 1, 1), size=50)
    np.testing.assert_array_equal(decide(p, np.full(3, 1 / 3)), p.argmax(axis=1))


def test_a_low_threshold_lets_a_class_win() -> None:
    p = np.array([[0.6, 0.3, 0.1]])
    assert decide(p, np.array([0.6, 0.2, 0.2])) == [1]  # 1.0, 1.5, 0.5
    assert decide(p, np.array([0.75, 0.2, 0.05])) == [2]  # 0.8, 1.5, 2.0


def test_fit_finds_a_separation_that_argmax_misses() -> None:
    # High is never above 0.2 and always above 0.1 where it is true.
    p = np.array([[0.85, 0.1, 0.05]] * 20 + [[0.7, 0.1, 0.2]] * 5 + [[0.6, 0.35, 0.05]] * 5)
    y = np.repeat([0, 2, 1], [20, 5, 5])
    fitted = fit_thresholds(for_all(p), for_all(y))
    np.testing.assert_array_equal(fitted.decide(for_all(p))["liver"], y)
    assert macro_f1(y, p.argmax(axis=1), 3) < 0.5


def test_fit_prefers_the_argmax_among_equals() -> None:
    y = np.array([0, 1, 2, 0])
    fitted = fit_thresholds(for_all(np.eye(3)[y] * 0.7 + 0.1), for_all(y))
    assert fitted.by_group["spleen"] == pytest.approx((1 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize("values", [(0.5, 0.5), (0.0, 0.5, 0.5), (0.5, 0.5, 0.5)])
def test_impossible_thresholds_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="thresholds of liver"):
        Thresholds({"liver": values})


def test_calibration_undoes_overconfidence_and_weights() -> None:
    p, y = cohort(0, 4000, 1.5)
    sharpened = p**3 / (p**3).sum(axis=1, keepdims=True)
    fitted = fit_calibration(for_all(sharpened), for_all(y))
    weighted = p * WEIGHTS / (p * WEIGHTS).sum(axis=1, keepdims=True)  # the score's optimum
    fresh_p, fresh_y = cohort(1, 4000, 1.5)
    fresh = fresh_p**3 / (fresh_p**3).sum(axis=1, keepdims=True)
    found = fitted.apply(for_all(fresh))["kidney"]
    ideal = fresh_p * WEIGHTS / (fresh_p * WEIGHTS).sum(axis=1, keepdims=True)
    assert fitted.by_group["kidney"][0] == pytest.approx(1 / 3, abs=0.03)
    assert metrics.weighted_log_loss(found, fresh_y, WEIGHTS) == pytest.approx(
        metrics.weighted_log_loss(ideal, fresh_y, WEIGHTS), abs=0.01
    )
    assert np.abs(fitted.apply(for_all(sharpened))["kidney"] - weighted).mean() < 0.02


def test_calibration_of_noise_is_the_optimal_constant() -> None:
    _, y = cohort(2, 3000, 1.0)
    noise = np.random.default_rng(3).dirichlet((1, 1, 1), size=3000)
    found = fit_calibration(for_all(noise), for_all(y)).apply(for_all(noise))["liver"]
    best = metrics.optimal_constant(y, WEIGHTS)
    loss = metrics.weighted_log_loss(np.tile(best, (len(y), 1)), y, WEIGHTS)
    assert metrics.weighted_log_loss(found, y, WEIGHTS) == pytest.approx(loss, abs=0.003)


def test_calibration_of_predictions_that_are_wrong_is_the_optimal_constant() -> None:
    p, y = cohort(4, 400, 1.5)
    wrong = (1 / p) / (1 / p).sum(axis=1, keepdims=True)  # the likeliest class is the least likely
    fitted = fit_calibration(for_all(wrong), for_all(y))
    assert fitted.by_group["liver"][0] == 0
    n = np.bincount(y, minlength=3)
    expected = n * WEIGHTS / (n @ np.array(WEIGHTS))  # by hand: p_c ~ w_c * n_c
    found = fitted.apply(for_all(wrong))["liver"]
    np.testing.assert_allclose(found, np.tile(expected, (400, 1)), rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_calibration_is_monotone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    few, y = rng.dirichlet((1, 1, 1), size=12), rng.integers(3, size=12)  # noise of few patients
    assert fit_calibration(for_all(few), for_all(y)).by_group["kidney"][0] >= 0
    p, y = cohort(seed, 60, 1.0)
    fitted = fit_calibration(for_all(p), for_all(y))
    raised = p * [1, 1, 1.5]  # more of class 2 against the same others
    raised /= raised.sum(axis=1, keepdims=True)
    before, after = fitted.apply(for_all(p))["kidney"], fitted.apply(for_all(raised))["kidney"]
    assert (after[:, 2] >= before[:, 2]).all()


def test_identity_changes_nothing() -> None:
    p = np.random.default_rng(0).dirichlet((1, 1, 1), size=20)
    np.testing.assert_allclose(Calibration.identity().apply(for_all(p))["liver"], p, rtol=1e-12)


def out_of_fold(count: int) -> pd.DataFrame:
    p, y = cohort(5, count, 1.0)
    ids = [f"{i:04d}" for i in range(count)]
    series = predictions.make_series_table(
        split="oof",
        fold=0,
        patients=ids,
        series=ids,
        probabilities=for_all(p),
        truths=for_all(y),
    )
    return predictions.to_patients(series, "mean")


def test_decision_round_trip_is_exact(tmp_path: object) -> None:
    fitted = decision.fit_decision(out_of_fold(60), calibrate=True)
    decision.write_decision(tmp_path, fitted)  # type: ignore[arg-type]
    assert decision.read_decision(tmp_path) == fitted  # type: ignore[arg-type]
    identity = Calibration.identity()
    assert fitted.calibration != identity
    assert decision.fit_decision(out_of_fold(60), calibrate=False).calibration == identity


def test_patient_is_mean_or_worst_of_its_series() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.3, 0.2, 0.5]])
    series = predictions.make_series_table(
        split="test",
        fold=-1,
        patients=["a", "a"],
        series=["1", "2"],
        probabilities={"kidney": p, "liver": p[::-1], "spleen": p},
        truths={"kidney": np.full(2, 0), "liver": np.full(2, 1), "spleen": np.full(2, 2)},
    )
    mean = predictions.group_probabilities(predictions.to_patients(series, "mean"))
    worst = predictions.group_probabilities(predictions.to_patients(series, "max"))
    np.testing.assert_allclose(mean["kidney"], [[0.6, 0.15, 0.25]])
    np.testing.assert_allclose(worst["kidney"], [[0.3, 0.2, 0.5]])
    np.testing.assert_allclose(worst["liver"], [[0.3, 0.2, 0.5]])  # from the other series
    truths = predictions.group_truths(predictions.to_patients(series, "max"))
    assert [int(truths[organ][0]) for organ in ORGANS] == [0, 1, 2]
