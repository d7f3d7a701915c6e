"""The official RSNA 2023 score and the paper's metrics, in float64 NumPy.

`voco_models.stages.evaluation` chooses the metrics of a run. `report.py` names them on the page.

Predictions are one array per group, {"kidney": (N, 3), "bowel": (N, 2), ...}, and truths are class
indices, {"kidney": (N,), ...}. All scores are over patients. `counts` (R, N) are R resamples of the
patients: patient i is counts[r, i] times in resample r. Functions of counts give a value per
resample, (R,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.labels import ORGAN_TARGETS, RSNA_TARGETS, TargetTable

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Probabilities = Mapping[str, FloatArray]
Truths = Mapping[str, IntArray]

ANY_INJURY = "any_injury"
ANY_WEIGHTS = (1.0, 6.0)
"""Weights of a patient without and with any injury (RSNA 2023, evaluation page)."""

EPSILON = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to [eps, 1 - eps], as scikit-learn's log_loss does for float64."""

ABSENT_COUNT = 0.5
"""Number of patients that constant predictions assume for a class without training patients. With
a probability of 0, a test patient of this class would have a loss of 36."""

OFFICIAL_SCORE, ORGAN_SCORE, ORGAN_ANY_SCORE = "rsna_official_6", "rsna_organ_3", "rsna_organ_3_any"
SCORES = (ORGAN_SCORE, ORGAN_ANY_SCORE, OFFICIAL_SCORE)


def normalise_rows(probabilities: npt.NDArray[np.floating]) -> FloatArray:
    """Rows (N, C) divided by their sums.

    Raises ValueError for a sum of 0, and for a probability that is negative or not finite.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not np.isfinite(p).all() or (p < 0).any():
        raise ValueError("probabilities must be (N, C), finite and not negative")
    sums = p.sum(axis=1, keepdims=True)
    if (sums == 0).any():
        raise ValueError(f"row {int((sums == 0).argmax())} of the probabilities sums to 0")
    return np.asarray(p / sums)


def patient_losses(probabilities: npt.NDArray[np.floating], truth: IntArray) -> FloatArray:
    """-log p of the true class, (N,), of normalised and clipped probabilities (N, C)."""
    p = np.clip(normalise_rows(probabilities), EPSILON, 1 - EPSILON)
    return -np.log(p[np.arange(len(truth)), truth])


def weighted_log_loss(
    probabilities: npt.NDArray[np.floating], truth: IntArray, weights: tuple[float, ...]
) -> float:
    """sum(w_i * -log p_i) / sum(w_i), where w_i is the weight of the true class of patient i."""
    return float(
        np.average(patient_losses(probabilities, truth), weights=_patient_weights(truth, weights))
    )


def any_injury(probabilities: Probabilities, truths: Truths) -> tuple[FloatArray, IntArray]:
    """Probabilities (N, 2) and truth (N,) of any injury: the largest 1 - p_0 over the groups."""
    injured = np.max([1 - normalise_rows(p)[:, 0] for p in probabilities.values()], axis=0)
    truth = np.max([truths[group] > 0 for group in probabilities], axis=0)
    return np.stack([1 - injured, injured], axis=1), truth.astype(np.int64)


@dataclass(frozen=True, slots=True)
class PatientTerms:
    """Loss and weight of each patient in each group; scores are weighted means of the losses."""

    losses: dict[str, FloatArray]
    """(N,) by group, and for `any_injury`."""
    weights: dict[str, FloatArray]
    """As `losses`."""

    def scores(self, counts: FloatArray) -> dict[str, FloatArray]:
        """Scores by name, (R,), for counts (R, N)."""
        groups = {
            group: (counts @ (weights * self.losses[group])) / (counts @ weights)
            for group, weights in self.weights.items()
        }
        return groups | summarise_groups(groups)


def patient_terms(probabilities: Probabilities, truths: Truths) -> PatientTerms:
    """Terms of the RSNA score; `any_injury` is over the groups in `probabilities`.

    Raises ValueError for a group that is not in the score, and for a missing organ.
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


def summarise_groups(groups: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Means of the group losses by the names in `SCORES`.

    `rsna_official_6` is left out unless all groups of `RSNA_TARGETS` are given.
    """
    organs = [groups[organ] for organ in ORGAN_TARGETS.names]
    means = {
        ORGAN_SCORE: np.mean(organs, axis=0),
        ORGAN_ANY_SCORE: np.mean([*organs, groups[ANY_INJURY]], axis=0),
    }
    if set(RSNA_TARGETS.names) <= set(groups):
        means[OFFICIAL_SCORE] = np.mean(
            [groups[g] for g in (*RSNA_TARGETS.names, ANY_INJURY)], axis=0
        )
    return means


def rsna_scores(probabilities: Probabilities, truths: Truths) -> dict[str, float]:
    """Losses of the groups and of `any_injury`, and their means by name. Lower is better."""
    terms = patient_terms(probabilities, truths)
    scores = terms.scores(unit_counts(len(terms.losses[ANY_INJURY])))
    return {name: float(values[0]) for name, values in scores.items()}


def unit_counts(n_patients: int) -> FloatArray:
    """Counts (1, N) of the cohort itself: every patient once."""
    return np.ones((1, n_patients))


def average_precision(
    score: FloatArray, positive: npt.NDArray[np.bool_], counts: FloatArray
) -> FloatArray:
    """Sum over thresholds n of (recall_n - recall_{n-1}) * precision_n, (R,), for counts (R, N).

    `score` and `positive` are (N,). Patients with equal scores share a threshold. NaN without a
    positive patient. As scikit-learn's average_precision_score.
    """
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    ranked = counts[:, order]
    hits = np.cumsum(ranked * positive[order], axis=1)[:, last_of_tie]
    predicted = np.cumsum(ranked, axis=1)[:, last_of_tie]
    new_hits = np.diff(hits, axis=1, prepend=0)
    total = np.where(hits[:, -1] > 0, hits[:, -1], np.nan)
    return np.asarray((new_hits * hits / np.maximum(predicted, 1)).sum(axis=1) / total)


def mean_average_precision(
    probabilities: Probabilities,
    truths: Truths,
    counts: FloatArray,
    targets: TargetTable = ORGAN_TARGETS,
) -> FloatArray:
    """Mean, (R,), of the average precisions of all classes of all groups, each against the rest.

    Classes without a patient are left out, because their recall is not defined.
    """
    cells = [
        average_precision(np.asarray(probabilities[g.name][:, c]), truths[g.name] == c, counts)
        for g in targets
        for c in range(len(g.classes))
    ]
    return np.asarray(np.nanmean(cells, axis=0))


def confusion(truth: IntArray, predicted: IntArray, n_classes: int) -> IntArray:
    """Number of patients by (true class, predicted class), (C, C)."""
    cells = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def macro_precision_recall(
    predicted: Truths, truths: Truths, counts: FloatArray, targets: TargetTable = ORGAN_TARGETS
) -> tuple[FloatArray, FloatArray]:
    """Means, (R,) each, of precision and recall over all classes of all groups.

    A class that is never predicted has precision 0. Classes without a patient are left out.
    """
    precisions: list[FloatArray] = []
    recalls: list[FloatArray] = []
    for group in targets:
        for c in range(len(group.classes)):
            is_true, is_predicted = truths[group.name] == c, predicted[group.name] == c
            hits = counts @ (is_true & is_predicted)
            actual = counts @ is_true
            actual = np.where(actual > 0, actual, np.nan)
            recalls.append(hits / actual)
            precisions.append(hits / np.maximum(counts @ is_predicted, 1) * (actual / actual))
    return np.nanmean(precisions, axis=0), np.nanmean(recalls, axis=0)


def prior_constant(truth: IntArray, n_classes: int) -> FloatArray:
    """Share of each class in the training labels, (C,)."""
    counts = _class_counts(truth, n_classes, ABSENT_COUNT)
    return np.asarray(counts / counts.sum())


def optimal_constant(
    truth: IntArray, weights: tuple[float, ...], *, absent_count: float = ABSENT_COUNT
) -> FloatArray:
    """The constant prediction (C,) with the lowest weighted log loss on `truth`: p_c ~ w_c * n_c.

    `absent_count` replaces n_c for a class without a patient; 0 gives the exact minimum.
    """
    mass = _class_counts(truth, len(weights), absent_count) * np.array(weights)
    return np.asarray(mass / mass.sum())


def _class_counts(truth: IntArray, n_classes: int, absent_count: float) -> FloatArray:
    counts = np.bincount(truth, minlength=n_classes).astype(np.float64)
    return np.where(counts == 0, absent_count, counts)


def _patient_weights(truth: IntArray, weights: tuple[float, ...]) -> FloatArray:
    return np.array(weights, np.float64)[truth]
