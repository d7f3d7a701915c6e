"""The official RSNA 2023 score and the paper's metrics, in float64 NumPy.

A run reports those that `voco_models.stages.evaluation` chooses, under the labels of `report.py`.

Predictions come as one array a group, {"kidney": (N, 3), "bowel": (N, 2), ...}, and truths as class
indices {"kidney": (N,), ...}. All scores are over patients. `counts` (R, N) are R resamples of the
patients: patient i comes counts[r, i] times in resample r, and there is one value a resample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.labels import ORGAN_TARGETS, RSNA_TARGETS, TargetTable

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Probabilities = Mapping[str, Float]
Truths = Mapping[str, Int]

ANY_INJURY = "any_injury"
ANY_WEIGHTS = (1.0, 6.0)
"""Weight of a patient without and with any injury (RSNA 2023, evaluation page)."""

EPSILON = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to [eps, 1 - eps], as scikit-learn's log_loss does for float64."""

ABSENT = 0.5
"""Number of patients that constant predictions assume for a class without training patients: with a
probability of 0, the first test patient of that class would have a loss of 36."""

OFFICIAL, ORGAN, ORGAN_ANY = "rsna_official_6", "rsna_organ_3", "rsna_organ_3_any"
SCORES = (ORGAN, ORGAN_ANY, OFFICIAL)


def normalise_rows(probabilities: npt.NDArray[np.floating]) -> Float:
    """Rows (N, C) divided by their sum. ValueError for a sum of 0, or a negative or infinite p."""
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not np.isfinite(p).all() or (p < 0).any():
        raise ValueError("probabilities must be (N, C), finite and not negative")
    sums = p.sum(axis=1, keepdims=True)
    if (sums == 0).any():
        raise ValueError(f"row {int((sums == 0).argmax())} of the probabilities sums to 0")
    return np.asarray(p / sums)


def patient_losses(probabilities: npt.NDArray[np.floating], truth: Int) -> Float:
    """-log p of the true class, (N,), after renormalising and clipping."""
    p = np.clip(normalise_rows(probabilities), EPSILON, 1 - EPSILON)
    return -np.log(p[np.arange(len(truth)), truth])


def weighted_log_loss(
    probabilities: npt.NDArray[np.floating], truth: Int, weights: tuple[float, ...]
) -> float:
    """sum(w_i * -log p_i) / sum(w_i), with w_i the weight of patient i's true class."""
    return float(
        np.average(patient_losses(probabilities, truth), weights=_patient_weights(truth, weights))
    )


def any_injury(probabilities: Probabilities, truths: Truths) -> tuple[Float, Int]:
    """Probability (N, 2) and truth (N,) of any injury: the largest 1 - p_0 over the groups."""
    injured = np.max([1 - normalise_rows(p)[:, 0] for p in probabilities.values()], axis=0)
    truth = np.max([truths[group] > 0 for group in probabilities], axis=0)
    return np.stack([1 - injured, injured], axis=1), truth.astype(np.int64)


@dataclass(frozen=True, slots=True)
class PatientTerms:
    """Loss and weight of each patient in each group; a resample is a sum over them."""

    losses: dict[str, Float]
    """Group, or `any_injury`, -> (N,)."""
    weights: dict[str, Float]

    def scores(self, counts: Float) -> dict[str, Float]:
        """Scores by name, (R,), of R resamples in which patient i comes counts[r, i] times."""
        groups = {
            group: (counts @ (weights * self.losses[group])) / (counts @ weights)
            for group, weights in self.weights.items()
        }
        return groups | summarise_groups(groups)


def patient_terms(probabilities: Probabilities, truths: Truths) -> PatientTerms:
    """Terms of the RSNA score. `any_injury` is taken over the groups that are given.

    Raises ValueError for a group that the score does not have, and for a missing organ.
    """
    unknown = set(probabilities) - set(RSNA_TARGETS.names)
    missing = (set(ORGAN_TARGETS.names) - set(probabilities)) | (set(probabilities) - set(truths))
    if unknown or missing:
        raise ValueError(f"groups: unknown {sorted(unknown)}, missing {sorted(missing)}")
    p_any, y_any = any_injury(probabilities, truths)
    losses = {g: patient_losses(p, truths[g]) for g, p in probabilities.items()}
    weights = {g: _patient_weights(truths[g], RSNA_TARGETS[g].weights) for g in probabilities}
    return PatientTerms(
        losses=losses | {ANY_INJURY: patient_losses(p_any, y_any)},
        weights=weights | {ANY_INJURY: _patient_weights(y_any, ANY_WEIGHTS)},
    )


def summarise_groups(groups: Mapping[str, Float]) -> dict[str, Float]:
    """The three named means of the group losses.

    `rsna_official_6` needs all groups of `RSNA_TARGETS`; it is left out otherwise.
    """
    organs = [groups[organ] for organ in ORGAN_TARGETS.names]
    means = {
        ORGAN: np.mean(organs, axis=0),
        ORGAN_ANY: np.mean([*organs, groups[ANY_INJURY]], axis=0),
    }
    if set(RSNA_TARGETS.names) <= set(groups):
        means[OFFICIAL] = np.mean([groups[g] for g in (*RSNA_TARGETS.names, ANY_INJURY)], axis=0)
    return means


def rsna_scores(probabilities: Probabilities, truths: Truths) -> dict[str, float]:
    """Loss of each group, of any_injury, and the named means. Lower is better."""
    terms = patient_terms(probabilities, truths)
    scores = terms.scores(unit_counts(len(terms.losses[ANY_INJURY])))
    return {name: float(values[0]) for name, values in scores.items()}


def unit_counts(n_patients: int) -> Float:
    """Counts (1, N) of the cohort itself, in which every patient comes once."""
    return np.ones((1, n_patients))


def average_precision(score: Float, positive: npt.NDArray[np.bool_], counts: Float) -> Float:
    """Sum over thresholds of (R_n - R_{n-1}) P_n, (R,), for counts (R, N) of the patients.

    Patients of one score enter together. NaN without a positive patient.
    """
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    ranked = counts[:, order]
    hits = np.cumsum(ranked * positive[order], axis=1)[:, last_of_tie]
    called = np.cumsum(ranked, axis=1)[:, last_of_tie]
    gained = np.diff(hits, axis=1, prepend=0)
    total = np.where(hits[:, -1] > 0, hits[:, -1], np.nan)
    return np.asarray((gained * hits / np.maximum(called, 1)).sum(axis=1) / total)


def mean_average_precision(
    probabilities: Probabilities,
    truths: Truths,
    counts: Float,
    targets: TargetTable = ORGAN_TARGETS,
) -> Float:
    """Mean, (R,), of the average precisions of every class of every group (one against the rest).

    Classes that no patient has are left out: neither their precision nor recall is defined.
    """
    cells = [
        average_precision(np.asarray(probabilities[g.name][:, c]), truths[g.name] == c, counts)
        for g in targets
        for c in range(len(g.classes))
    ]
    return np.asarray(np.nanmean(cells, axis=0))


def confusion(truth: Int, predicted: Int, n_classes: int) -> Int:
    """Counts (true class, predicted class)."""
    cells = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def macro_precision_recall(
    predicted: Truths, truths: Truths, counts: Float, targets: TargetTable = ORGAN_TARGETS
) -> tuple[Float, Float]:
    """Means, (R,) each, of precision and recall over every class of every group.

    A class that is never predicted has precision 0. Classes that no patient has are left out.
    """
    precisions: list[Float] = []
    recalls: list[Float] = []
    for group in targets:
        for c in range(len(group.classes)):
            is_true, is_called = truths[group.name] == c, predicted[group.name] == c
            hits = counts @ (is_true & is_called)
            actual = counts @ is_true
            actual = np.where(actual > 0, actual, np.nan)
            recalls.append(hits / actual)
            precisions.append(hits / np.maximum(counts @ is_called, 1) * (actual / actual))
    return np.nanmean(precisions, axis=0), np.nanmean(recalls, axis=0)


def prior_constant(truth: Int, n_classes: int) -> Float:
    """Share of each class in the training labels, (C,)."""
    counts = _class_counts(truth, n_classes, ABSENT)
    return np.asarray(counts / counts.sum())


def optimal_constant(truth: Int, weights: tuple[float, ...], *, absent: float = ABSENT) -> Float:
    """The constant prediction (C,) with the least weighted log loss on `truth`: p_c ~ w_c * n_c.

    `absent` is the count of a class that no patient has; 0 gives the exact minimum on `truth`.
    """
    mass = _class_counts(truth, len(weights), absent) * np.array(weights)
    return np.asarray(mass / mass.sum())


def _class_counts(truth: Int, n_classes: int, absent: float) -> Float:
    counts = np.bincount(truth, minlength=n_classes).astype(np.float64)
    return np.where(counts == 0, absent, counts)


def _patient_weights(truth: Int, weights: tuple[float, ...]) -> Float:
    return np.array(weights, np.float64)[truth]
