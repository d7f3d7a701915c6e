"""The measures of a run: decision curves, types of negatives, what is not defined, intervals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from voco_data.labels.targets import ORGAN_TARGETS
from voco_models.evaluation.decision_curve import THRESHOLDS, net_benefit, net_benefit_of_all
from voco_models.evaluation.measures import compute_measures
from voco_models.evaluation.metrics import unit_counts
from voco_models.evaluation.negatives import sensitivity, specificities
from voco_models.evaluation.probability_measures import remove_weights

ORGANS = ORGAN_TARGETS.names
WEIGHTS = (1.0, 2.0, 4.0)
COUNT = 80


def cohort(seed: int = 0, count: int = COUNT) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    truths = {o: rng.choice(3, size=count, p=[0.6, 0.25, 0.15]) for o in ORGANS}
    logits = {o: rng.normal(size=(count, 3)) + 1.5 * np.eye(3)[truths[o]] for o in ORGANS}
    return {o: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for o, x in logits.items()}, truths


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    p, y = cohort()
    thresholds = {o: (p[o] / np.array([0.5, 0.3, 0.2])).argmax(axis=1) for o in ORGANS}
    return compute_measures(p, thresholds, y, seed=0)


# Decision curves


def test_net_benefit_by_hand() -> None:
    # At 20 % four are called, two of them injured: 2/5 - 2/5 * .2/.8.
    p = np.array([0.9, 0.2, 0.5, 0.3, 0.1])
    injured = np.array([True, True, False, False, False])
    curve = net_benefit(p, injured, unit_counts(5))[0]
    at = {round(float(t), 2): float(b) for t, b in zip(THRESHOLDS, curve, strict=True)}
    assert at[0.20] == pytest.approx(0.4 - 0.4 * 0.25)
    assert at[0.21] == pytest.approx(0.2 - 0.4 * 0.21 / 0.79)  # the injured patient at .2 is missed
    assert at[0.95] == 0
    twice_the_first = np.array([[2.0, 0.0, 1.0, 1.0, 1.0]])
    assert net_benefit(p, injured, twice_the_first)[0, 19] == pytest.approx(0.4 - 0.4 * 0.25)


def test_acting_on_all_is_worth_nothing_where_the_threshold_is_the_prevalence() -> None:
    injured = np.arange(20) < 5
    curve = net_benefit_of_all(injured)
    assert curve[24] == pytest.approx(0)  # at 25 %
    assert curve[0] == pytest.approx(0.25 - 0.75 / 99)
    everyone = net_benefit(np.ones(20), injured, unit_counts(20))[0]
    np.testing.assert_allclose(everyone, curve)


# Types of negatives


def test_specificity_by_type_of_negative() -> None:
    truths = {
        "liver": np.array([0, 0, 0, 0, 0, 2]),
        "spleen": np.array([0, 0, 1, 0, 0, 0]),
        "bowel": np.array([0, 0, 0, 1, 0, 0]),  # a group without a head counts as an injury
    }
    predicted = {"liver": np.array([0, 1, 2, 0, 0, 1])}
    shares = specificities("liver", predicted, truths)
    assert {k: (v["patients"], v["value"]) for k, v in shares.items() if v} == {
        "all": (5, 3 / 5),
        "no_injury": (3, 2 / 3),
        "injured_elsewhere": (2, 1 / 2),
    }
    injured = sensitivity("liver", predicted, truths)
    assert injured is not None
    assert (injured["patients"], injured["value"]) == (1, 1)  # another grade is still an injury


def test_without_patients_there_is_no_share() -> None:
    truths = {"liver": np.array([1, 2]), "spleen": np.array([1, 0])}
    predicted = {"liver": np.array([0, 2]), "spleen": np.array([0, 0])}
    assert set(specificities("liver", predicted, truths).values()) == {None}
    assert specificities("spleen", predicted, truths)["no_injury"] is None
    healthy = {"liver": np.array([0, 0])}
    assert sensitivity("liver", healthy, healthy | {"spleen": np.array([0, 1])}) is None


# All together


def test_values_as_scikit_learn(found: dict[str, Any]) -> None:
    p, y = cohort()
    areas = []
    for organ in ORGANS:
        group = found["by_group"][organ]
        for c, name in enumerate(("healthy", "low", "high")):
            area = sklearn_metrics.roc_auc_score(y[organ] == c, p[organ][:, c])
            assert group["auroc"][name]["value"] == pytest.approx(area, rel=1e-12)
            areas.append(area)
        patient = p[organ] / WEIGHTS / (p[organ] / WEIGHTS).sum(axis=1, keepdims=True)
        brier = sklearn_metrics.brier_score_loss(y[organ], patient)
        assert group["brier"]["value"] == pytest.approx(brier, rel=1e-12)
        for measure, function in (
            ("macro_precision", sklearn_metrics.precision_score),
            ("macro_recall", sklearn_metrics.recall_score),
        ):
            expected = function(y[organ], p[organ].argmax(axis=1), average="macro", zero_division=0)
            value = group[measure]["argmax"]["value"]
            assert value == pytest.approx(expected, rel=1e-12)
    assert found["over_groups"]["auroc"]["value"] == pytest.approx(np.mean(areas), rel=1e-12)


def test_the_two_rules_differ(found: dict[str, Any]) -> None:
    recall = found["by_group"]["liver"]["macro_recall"]
    assert recall["argmax"]["value"] != recall["thresholds"]["value"]


def test_intervals_enclose_their_values(found: dict[str, Any]) -> None:
    for group in (*found["by_group"].values(), found["over_groups"]):
        for name in ("brier", "macro_precision", "macro_recall", "auroc"):
            cells = [group[name]] if "value" in group[name] else group[name].values()
            for cell in cells:
                assert cell["low"] < cell["value"] < cell["high"], name
    curve = found["by_group"]["liver"]["decision_curve"]
    assert all(
        low <= value <= high
        for low, value, high in zip(curve["low"], curve["model"], curve["high"], strict=True)
    )


def test_interval_of_an_area_as_that_of_hanley_and_mcneil(found: dict[str, Any]) -> None:
    _, y = cohort()
    area = found["by_group"]["liver"]["auroc"]["healthy"]
    a, n, m = area["value"], int((y["liver"] == 0).sum()), int((y["liver"] > 0).sum())
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (n * m)
    half = 1.96 * np.sqrt(variance)
    assert area["high"] - area["low"] == pytest.approx(2 * half, rel=0.3)


def test_a_class_that_no_patient_has_is_named_and_never_nan() -> None:
    p, y = cohort()
    y["liver"] = np.minimum(y["liver"], 1)
    y["spleen"] = np.zeros_like(y["spleen"])
    found = compute_measures(p, {o: p[o].argmax(axis=1) for o in ORGANS}, y, seed=0)
    liver, spleen = found["by_group"]["liver"], found["by_group"]["spleen"]
    assert (liver["auroc"]["high"], liver["undefined"]) == (None, ["high"])
    assert liver["auroc"]["low"] is not None
    assert spleen["undefined"] == ["healthy", "low", "high"]  # also where all patients have it
    assert spleen["sensitivity"] is None
    assert set(spleen["roc"]) == set()
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_patients_are_no_error(count: int) -> None:
    p, y = cohort(2, count)
    found = compute_measures(p, {o: p[o].argmax(axis=1) for o in ORGANS}, y, seed=0)
    json.dumps(found, allow_nan=False)
    if count == 1:
        assert found["over_groups"]["auroc"] is None


def test_curves_are_of_the_probabilities_of_patients(found: dict[str, Any]) -> None:
    p, y = cohort()
    injury = 1 - remove_weights(p["liver"], WEIGHTS)[:, 0]
    curve = found["by_group"]["liver"]["decision_curve"]
    expected = net_benefit(injury, y["liver"] > 0, unit_counts(COUNT))[0]
    np.testing.assert_allclose(curve["model"], expected)
    bins = found["by_group"]["liver"]["reliability"]
    mean = sum(b["patients"] * b["predicted"] for b in bins) / COUNT
    assert mean == pytest.approx(injury.mean())
