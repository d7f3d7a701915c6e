"""The measures of a run beside its scores: by group and over groups, with intervals.

Calibration and decision curves are of probabilities of patients (see `probability_measures`), all
others of the probabilities that are scored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from voco_data.labels import ORGAN_TARGETS, TargetGroup, TargetTable
from voco_models.evaluation.bootstrap import Resampled, resample
from voco_models.evaluation.decision_curve import THRESHOLDS, net_benefit, net_benefit_of_all
from voco_models.evaluation.discrimination import auroc, mean_of_defined, roc_curve
from voco_models.evaluation.metrics import (
    FloatArray,
    Probabilities,
    Truths,
    macro_precision_recall,
)
from voco_models.evaluation.negatives import sensitivity, specificities
from voco_models.evaluation.probability_measures import (
    brier_score,
    calibration_error,
    calibration_error_by_chance,
    reliability_curve,
    remove_weights,
)

RULES = ("argmax", "thresholds")
"""How classes are predicted: the most probable one, or by the thresholds of the decision."""
CURVE = "net_benefit"


def compute_measures(
    probabilities: Probabilities,
    predicted: Truths,
    truths: Truths,
    seed: int,
    targets: TargetTable = ORGAN_TARGETS,
) -> dict[str, Any]:
    """All measures as plain values; what is not defined is None, and named in `undefined`.

    Parameters
    ----------
    probabilities : (N, C) by group, calibrated, as they are scored.
    predicted : classes (N,) by group, at the thresholds.
    truths : classes (N,) by group; further groups count for the types of negatives only.
    seed : of the resamples.
    targets : groups with the class weights that the probabilities contain; see `remove_weights`.
    """
    n_patients = len(truths[targets.names[0]])
    classes = {"argmax": {n: probabilities[n].argmax(axis=1) for n in targets.names}}
    classes["thresholds"] = {n: predicted[n] for n in targets.names}

    def statistic(counts: FloatArray) -> dict[str, FloatArray]:
        return pooled_values(probabilities, classes, truths, counts, targets) | {
            f"{group.name}/{CURVE}": net_benefit(
                _injury_probability(probabilities, group), truths[group.name] > 0, counts
            )
            for group in targets
        }

    found = resample(statistic, n_patients, np.random.default_rng(seed))
    by_group = {
        group.name: _of_group(group, found, probabilities, predicted, truths, seed)
        for group in targets
    }
    return {"by_group": by_group, "over_groups": _macro(found, "all") | _over_groups(found)}


def pooled_values(
    probabilities: Probabilities,
    classes: dict[str, dict[str, Any]],
    truths: Truths,
    counts: FloatArray,
    targets: TargetTable = ORGAN_TARGETS,
) -> dict[str, FloatArray]:
    """Values (R,) by `group/measure` and `all/measure`, NaN where undefined, for counts (R, N).

    `classes` are predicted classes (N,) by rule and group.
    """
    values: dict[str, FloatArray] = {}
    for group in targets:
        name, truth = group.name, truths[group.name]
        for c, label in enumerate(group.classes):
            score = np.asarray(probabilities[name][:, c])
            values[f"{name}/auroc/{label}"] = auroc(score, truth == c, counts)
        patient = remove_weights(probabilities[name], group.weights)
        values[f"{name}/ece"] = calibration_error(patient, truth, counts)
        values[f"{name}/brier"] = brier_score(patient, truth, counts)
        values |= _macro_values(name, classes, truths, counts, targets.select((name,)))
    areas = [value for name, value in values.items() if "/auroc/" in name]
    values["all/auroc"] = mean_of_defined(areas)
    for measure in ("ece", "brier"):
        values[f"all/{measure}"] = np.mean(
            [values[f"{n}/{measure}"] for n in targets.names], axis=0
        )
    return values | _macro_values("all", classes, truths, counts, targets)


def _macro_values(
    name: str,
    classes: dict[str, dict[str, Any]],
    truths: Truths,
    counts: FloatArray,
    targets: TargetTable,
) -> dict[str, FloatArray]:
    """Macro precision and recall of `targets` by rule."""
    values = {}
    for rule in RULES:
        precision, recall = macro_precision_recall(classes[rule], truths, counts, targets)
        values[f"{name}/precision/{rule}"] = precision
        values[f"{name}/recall/{rule}"] = recall
    return values


def _of_group(
    group: TargetGroup,
    found: Resampled,
    probabilities: Probabilities,
    predicted: Truths,
    truths: Truths,
    seed: int,
) -> dict[str, Any]:
    """The measures of one group as plain values."""
    name, truth = group.name, truths[group.name]
    areas = {c: _interval(found, f"{name}/auroc/{c}") for c in group.classes}
    defined = [c for c in group.classes if areas[c] is not None]
    curves = {
        c: roc_curve(np.asarray(probabilities[name][:, i]), truth == i)
        for i, c in enumerate(group.classes)
        if c in defined
    }
    patient = remove_weights(probabilities[name], group.weights)
    by_chance = calibration_error_by_chance(patient, np.random.default_rng(seed))
    value, low, high = found.band(f"{name}/{CURVE}")
    return {
        "auroc": areas,
        "undefined": [c for c in group.classes if c not in defined],
        "ece": _interval(found, f"{name}/ece"),
        "ece_by_chance": by_chance,
        "brier": _interval(found, f"{name}/brier"),
        **_macro(found, name),
        "specificity": specificities(name, predicted, truths),
        "sensitivity": sensitivity(name, predicted, truths),
        "reliability": [b.to_json() for b in reliability_curve(1 - patient[:, 0], truth > 0)],
        "roc": {
            c: {"false_positive_rate": x.tolist(), "true_positive_rate": y.tolist()}
            for c, (x, y) in curves.items()
        },
        "decision_curve": {
            "threshold": THRESHOLDS.tolist(),
            "model": value.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "treat_all": net_benefit_of_all(truth > 0).tolist(),
        },
    }


def _over_groups(found: Resampled) -> dict[str, Any]:
    return {measure: _interval(found, f"all/{measure}") for measure in ("auroc", "ece", "brier")}


def _macro(found: Resampled, name: str) -> dict[str, Any]:
    """Macro precision and recall by rule."""
    return {
        f"macro_{measure}": {rule: _interval(found, f"{name}/{measure}/{rule}") for rule in RULES}
        for measure in ("precision", "recall")
    }


def _injury_probability(probabilities: Probabilities, group: TargetGroup) -> FloatArray:
    """Probability (N,) of patients to have an injury of the group, of any grade."""
    return np.asarray(1 - remove_weights(probabilities[group.name], group.weights)[:, 0])


def _interval(found: Resampled, name: str) -> dict[str, float] | None:
    """The interval of a value, or None if the value is not defined."""
    return None if np.isnan(found.values[name]) else found.interval(name).to_json()
