"""When a group abstains: margins computed by hand, and the share of the out-of-fold patients."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from voco_data.labels.targets import ORGAN_TARGETS
from voco_models.evaluation.calibration import Calibration
from voco_models.evaluation.decision import Decision, Thresholds
from voco_models.evaluation.predictions import make_series_table
from voco_models.prediction.abstention import fit_abstention, margin, margins_of

EQUAL = dict.fromkeys(ORGAN_TARGETS.names, (1 / 3, 1 / 3, 1 / 3))


def decision(thresholds: dict[str, tuple[float, ...]] = EQUAL) -> Decision:
    return Decision(Calibration.identity(), Thresholds(thresholds))


def out_of_fold(p: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """Lines of patients with the same probabilities (N, 3) and classes (N,) in every group."""
    return make_series_table(
        split="oof",
        fold=0,
        patients=[f"{i:03d}" for i in range(len(p))],
        series=[""] * len(p),
        probabilities=dict.fromkeys(ORGAN_TARGETS.names, p),
        truths=dict.fromkeys(ORGAN_TARGETS.names, truth),
    )


def test_the_margin_is_the_log_of_the_ratio_of_the_two_best_classes() -> None:
    p = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.4, 0.2, 0.4]])
    found = margin(p, np.array([1 / 3, 1 / 3, 1 / 3]))
    np.testing.assert_allclose(found, [math.log(2), math.log(2), 0], atol=1e-12)
    # With thresholds, the ratios of the first patient are 0.6 / 0.75, 0.3 / 0.2 and 0.1 / 0.05.
    found = margin(p[:1], np.array([0.75, 0.2, 0.05]))
    np.testing.assert_allclose(found, [math.log(2 / 1.5)], rtol=1e-9)


def test_a_tenth_of_the_patients_is_abstained_on_the_nearest_ones() -> None:
    # 101 patients between (0.5, 0.5, 0) and (1, 0, 0): the first is the nearest to another class.
    share = 0.5 + np.arange(101) / 200
    p = np.stack([share, 1 - share, 0 * share], axis=1)
    truth = np.zeros(101, np.int64)
    truth[:5] = 1  # 5 of the 10 nearest are wrong, and 1 of the others
    truth[50] = 2
    fitted = fit_abstention(decision(), out_of_fold(p, truth))
    for rule in fitted.by_group.values():
        assert (rule.patients, rule.abstained) == (101, 10)
        assert (rule.correct_abstained, rule.correct_kept) == (5, 90)
        assert rule.margin == pytest.approx(math.log(0.55 / 0.45))
    margins = dict.fromkeys(ORGAN_TARGETS.names, np.array([0.0, 0.19, 0.21]))
    for abstains in fitted.decide(margins).values():
        assert abstains.tolist() == [True, True, False]  # log(0.55 / 0.45) is 0.2007


def test_rare_injuries_are_not_abstained_on_first() -> None:
    """At a low threshold, an injury of moderate probability is as far from healthy as any."""
    thresholds = dict.fromkeys(ORGAN_TARGETS.names, (0.8, 0.15, 0.05))
    healthy, injured = [0.9, 0.08, 0.02], [0.5, 0.45, 0.05]
    near = [0.84, 0.14, 0.02]
    p = np.array([healthy] * 8 + [injured] * 2 + [near] * 1)
    fitted = fit_abstention(decision(thresholds), out_of_fold(p, np.zeros(11, np.int64)))
    margins = margins_of(decision(thresholds), dict.fromkeys(ORGAN_TARGETS.names, p))
    # Ratios 1.125 to 0.533, 3 to 1, and 1.05 to 0.933.
    np.testing.assert_allclose(np.exp(margins["liver"][[0, 8, 10]]), [2.109375, 3, 1.125])
    assert fitted.decide(margins)["liver"].tolist() == [False] * 10 + [True]
