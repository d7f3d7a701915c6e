"""The official RSNA 2023 score and the paper's metrics, in float64 NumPy.

Predictions come as one array a group, {"kidney": (N, 3), "bowel": (N, 2), ...}, and truths as class
indices {"kidney": (N,), ...}. All scores are over patients. Where `counts` (R, N) are asked for,
patient i comes counts[r, i] times in resample r, and there is a value a resample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.labels.table import BINARY_GROUPS, GRADES, ORGANS

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Probabilities = Mapping[str, Float]
Truths = Mapping[str, Int]

GROUP_WEIGHTS: dict[str, tuple[float, ...]] = {
    "bowel": (1.0, 2.0),
    "extravasation": (1.0, 6.0),
    "kidney": (1.0, 2.0, 4.0),
    "liver": (1.0, 2.0, 4.0),
    "spleen": (1.0, 2.0, 4.0),
}
"""Weight of a patient by true class (RSNA 2023 Abdominal Trauma Detection, evaluation page)."""

ANY_INJURY = "any_injury"
ANY_WEIGHTS = (1.0, 6.0)

EPSILON = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to [eps, 1 - eps], as scikit-learn's log_loss does for float64."""

ABSENT = 0.5
"""Patients that a class without any counts as in a constant made from training labels: a chance
of 0 would cost 36 for the first test patient of that class."""

OFFICIAL, ORGAN, ORGAN_ANY = "rsna_official_6", "rsna_organ_3", "rsna_organ_3_any"
SCORES = (ORGAN, ORGAN_ANY, OFFICIAL)


def normalise_rows(probabilities: npt.NDArray[np.floating]) -> Float:
    """Rows (N, C) divided by their sum. ValueError for a sum of 0 or a value that is no chance."""
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
    return float(np.average(patient_losses(probabilities, truth), weights=_weigh(truth, weights)))


def any_injury(probabilities: Probabilities, truths: Truths) -> tuple[Float, Int]:
    """Chance (N, 2) and truth (N,) of any injury: the largest 1 - p_healthy over the groups."""
    injured = np.max([1 - normalise_rows(p)[:, 0] for p in probabilities.values()], axis=0)
    truth = np.max([truths[group] > 0 for group in probabilities], axis=0)
    return np.stack([1 - injured, injured], axis=1), truth.astype(np.int64)


@dataclass(frozen=True, slots=True)
class PatientTerms:
    """Each patient's loss and weight in each group, so that resamples only need sums."""

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
    """Terms of the RSNA score. `any_injury` is taken over the groups that are given."""
    unknown = set(probabilities) - set(GROUP_WEIGHTS)
    missing = (set(ORGANS) - set(probabilities)) | (set(probabilities) - set(truths))
    if unknown or missing:
        raise ValueError(f"groups: unknown {sorted(unknown)}, missing {sorted(missing)}")
    p_any, y_any = any_injury(probabilities, truths)
    losses = {g: patient_losses(p, truths[g]) for g, p in probabilities.items()}
    weights = {g: _weigh(truths[g], GROUP_WEIGHTS[g]) for g in probabilities}
    return PatientTerms(
        losses=losses | {ANY_INJURY: patient_losses(p_any, y_any)},
        weights=weights | {ANY_INJURY: _weigh(y_any, ANY_WEIGHTS)},
    )


def summarise_groups(groups: Mapping[str, Float]) -> dict[str, Float]:
    """The three named means of the group losses.

    `rsna_official_6` needs all five groups and any_injury; it is left out otherwise.
    """
    organs = [groups[organ] for organ in ORGANS]
    means = {
        ORGAN: np.mean(organs, axis=0),
        ORGAN_ANY: np.mean([*organs, groups[ANY_INJURY]], axis=0),
    }
    if set(BINARY_GROUPS) <= set(groups):
        means[OFFICIAL] = np.mean([groups[g] for g in (*GROUP_WEIGHTS, ANY_INJURY)], axis=0)
    return means


def rsna_scores(probabilities: Probabilities, truths: Truths) -> dict[str, float]:
    """Loss of each group, of any_injury, and the named means. Lower is better."""
    terms = patient_terms(probabilities, truths)
    scores = terms.scores(once(len(terms.losses[ANY_INJURY])))
    return {name: float(values[0]) for name, values in scores.items()}


def once(n_patients: int) -> Float:
    """Counts (1, N) of the cohort itself: every patient once."""
    return np.ones((1, n_patients))


def average_precision(score: Float, positive: npt.NDArray[np.bool_], counts: Float) -> Float:
    """Sum over thresholds of (R_n - R_{n-1}) P_n, (R,), for counts (R, N) of the patients.

    Patients of one score enter together. NaN without a positive patient: nothing is to be found.
    """
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    ranked = counts[:, order]
    hits = np.cumsum(ranked * positive[order], axis=1)[:, last_of_tie]
    called = np.cumsum(ranked, axis=1)[:, last_of_tie]
    found = np.diff(hits, axis=1, prepend=0)
    total = np.where(hits[:, -1] > 0, hits[:, -1], np.nan)
    return np.asarray((found * hits / np.maximum(called, 1)).sum(axis=1) / total)


def mean_average_precision(probabilities: Probabilities, truths: Truths, counts: Float) -> Float:
    """Mean, (R,), of the average precisions of every class of every organ (one against the rest).

    Classes that no patient has are left out: neither their precision nor recall is defined.
    """
    cells = [
        average_precision(np.asarray(probabilities[organ][:, c]), truths[organ] == c, counts)
        for organ in ORGANS
        for c in range(len(GRADES))
    ]
    return np.asarray(np.nanmean(cells, axis=0))


def confusion(truth: Int, predicted: Int, n_classes: int = len(GRADES)) -> Int:
    """Counts (true class, predicted class)."""
    cells = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def macro_precision_recall(predicted: Truths, truths: Truths, counts: Float) -> tuple[Float, Float]:
    """Means, (R,) each, of precision and recall over every class of every organ.

    A class that is never predicted has precision 0. Classes that no patient has are left out.
    """
    precisions: list[Float] = []
    recalls: list[Float] = []
    for organ in ORGANS:
        for c in range(len(GRADES)):
            is_true, is_called = truths[organ] == c, predicted[organ] == c
            hits = counts @ (is_true & is_called)
            actual = counts @ is_true
            actual = np.where(actual > 0, actual, np.nan)
            recalls.append(hits / actual)
            precisions.append(hits / np.maximum(counts @ is_called, 1) * (actual / actual))
    return np.nanmean(precisions, axis=0), np.nanmean(recalls, axis=0)


def prior_constant(truth: Int, n_classes: int) -> Float:
    """Share of each class in the training labels, (C,)."""
    counts = _counts(truth, n_classes, ABSENT)
    return np.asarray(counts / counts.sum())


def optimal_constant(truth: Int, weights: tuple[float, ...], *, absent: float = ABSENT) -> Float:
    """The constant prediction (C,) with the least weighted log loss on `truth`: p_c ~ w_c * n_c.

    `absent` is the count of a class that no patient has; 0 gives the exact minimum on `truth`.
    """
    mass = _counts(truth, len(weights), absent) * np.array(weights)
    return np.asarray(mass / mass.sum())


def _counts(truth: Int, n_classes: int, absent: float) -> Float:
    counts = np.bincount(truth, minlength=n_classes).astype(np.float64)
    return np.where(counts == 0, absent, counts)


def _weigh(truth: Int, weights: tuple[float, ...]) -> Float:
    return np.array(weights, np.float64)[truth]
