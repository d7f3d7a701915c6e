"""How well a score separates patients of a class from the rest: ROC curves and their areas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from voco_models.evaluation.metrics import FloatArray

BoolArray = npt.NDArray[np.bool_]


def auroc(score: FloatArray, positive: BoolArray, counts: FloatArray) -> FloatArray:
    """Area under the ROC curve, (R,), for counts (R, N); ties count half.

    It is the probability that a positive patient has a higher score than a negative one (Hanley and
    McNeil 1982). `score` and `positive` are (N,). NaN where a resample has no positive or no
    negative patient. As scikit-learn's roc_auc_score.
    """
    order = np.argsort(score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    ranked = counts[:, order]
    positives = np.cumsum(ranked * positive[order], axis=1)[:, last_of_tie]
    negatives = np.cumsum(ranked * ~positive[order], axis=1)[:, last_of_tie]
    new_positives = np.diff(positives, axis=1, prepend=0)
    new_negatives = np.diff(negatives, axis=1, prepend=0)
    won = (new_positives * (negatives - new_negatives / 2)).sum(axis=1)
    pairs = positives[:, -1] * negatives[:, -1]
    return np.asarray(won / np.where(pairs > 0, pairs, np.nan))


def roc_curve(score: FloatArray, positive: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Corners of the ROC curve from (0, 0) to (1, 1): false and true positive rates, (K,) each.

    `positive` (N,) needs both values. Points on a straight line between others are left out.
    """
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    hits = np.append(0.0, np.cumsum(positive[order])[last_of_tie])
    alarms = np.append(0.0, np.cumsum(~positive[order])[last_of_tie])
    steps = np.stack([np.diff(alarms), np.diff(hits)])
    turns = steps[0, 1:] * steps[1, :-1] != steps[1, 1:] * steps[0, :-1]
    corner = np.concatenate([[True], turns, [True]])
    return alarms[corner] / alarms[-1], hits[corner] / hits[-1]


def mean_of_defined(cells: Sequence[FloatArray]) -> FloatArray:
    """Mean, (R,), of the values (R,) that are not NaN; NaN where there are none."""
    stacked = np.stack(cells)
    defined = np.isfinite(stacked)
    count = defined.sum(axis=0)
    total = np.where(defined, stacked, 0.0).sum(axis=0)
    return np.asarray(total / np.where(count > 0, count, np.nan))
