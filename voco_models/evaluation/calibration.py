"""Calibration by one temperature and class biases per group, fitted on out-of-fold predictions.

q_c ~ exp(a * log p_c + b_c), where a >= 0 and b minimise the weighted log loss of the score (Platt
1999; Guo et al. 2017, "On Calibration of Modern Neural Networks"). The calibration is monotone: a
class that gains against another one before it does not lose after it. If the best factor would be
negative, a is 0, and the result is the weight-optimal constant. So a model that has learnt nothing
is calibrated to about this constant, and a model that is wrong to exactly this constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voco_data.labels import ORGAN_TARGETS, TargetTable
from voco_models.evaluation.metrics import (
    EPSILON,
    FloatArray,
    IntArray,
    Probabilities,
    Truths,
    optimal_constant,
)

STEPS = 100
"""Largest number of Newton steps; usually a few are enough."""
RIDGE = 0.5
"""Weight of the ridge that pulls `a` to 1 and `b` to 0, in patients."""
TOLERANCE = 1e-10
"""The fit ends when no parameter changes by more."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Parameters by group: the factor `a` and a bias per class, (a, b_0, b_1, ...).

    Those that `fit_calibration` makes have a >= 0. Runs of older versions may have a negative one.
    """

    by_group: dict[str, tuple[float, ...]]

    @classmethod
    def identity(cls, targets: TargetTable = ORGAN_TARGETS) -> Calibration:
        """The calibration that does not change probabilities."""
        return cls({g.name: _identity(len(g.classes)) for g in targets})

    def apply(self, probabilities: Probabilities) -> dict[str, FloatArray]:
        """Calibrated probabilities (N, C) by group."""
        return {
            name: _softmax(_features(probabilities[name]) @ np.array(parameters))
            for name, parameters in self.by_group.items()
        }


def fit_calibration(
    probabilities: Probabilities, truths: Truths, targets: TargetTable = ORGAN_TARGETS
) -> Calibration:
    """Fit each group with Newton's method, with a factor >= 0. Use out-of-fold predictions only.

    The problem is convex. So if the factor without a bound is negative, the best one with it is 0.
    There the biases are those of the weight-optimal constant, without a ridge.
    """
    return Calibration(
        {
            g.name: tuple(_fit_group(probabilities[g.name], truths[g.name], g.weights).tolist())
            for g in targets
        }
    )


def _identity(n_classes: int) -> tuple[float, ...]:
    """Parameters of a group that do not change its probabilities."""
    return (1.0, *[0.0] * n_classes)


def _fit_group(
    probabilities: FloatArray, truth: IntArray, class_weights: tuple[float, ...]
) -> FloatArray:
    """Parameters that minimise the weighted log loss plus the ridge, a convex function."""
    features = _features(probabilities)
    weights = np.array(class_weights)[truth]
    weights *= len(truth) / weights.sum()
    start = np.array(_identity(len(class_weights)))
    parameters = start.copy()
    target = np.eye(len(class_weights))[truth]
    for _ in range(STEPS):
        q = _softmax(features @ parameters)
        gradient = np.einsum("n,nc,ncf->f", weights, q - target, features)
        gradient += RIDGE * (parameters - start)
        mean = np.einsum("nc,ncf->nf", q, features)
        hessian = np.einsum("n,nc,ncf,ncg->fg", weights, q, features, features)
        hessian += RIDGE * np.eye(len(start)) - np.einsum("n,nf,ng->fg", weights, mean, mean)
        step = np.linalg.solve(hessian, gradient)
        size = float(np.abs(step).max())
        parameters -= step / max(1.0, size)
        if size < TOLERANCE:
            break
    if parameters[0] < 0:
        return np.array([0.0, *np.log(optimal_constant(truth, class_weights))])
    return parameters


def _features(probabilities: FloatArray) -> FloatArray:
    """(N, C, 1 + C): log p_c, then the indicator of class c."""
    logs = np.log(np.clip(probabilities, EPSILON, 1))
    n_classes = logs.shape[1]
    indicator = np.broadcast_to(np.eye(n_classes), (len(logs), n_classes, n_classes))
    return np.concatenate([logs[:, :, None], indicator], axis=2)


def _softmax(logits: FloatArray) -> FloatArray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float64)
