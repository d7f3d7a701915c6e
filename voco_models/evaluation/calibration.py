"""Calibration by one temperature and class biases a group, fitted on out-of-fold predictions.

q_c ~ exp(a * log p_c + b_c), with a and b minimising the weighted log loss that the score is made
of (Platt 1999; Guo et al. 2017, "On Calibration of Modern Neural Networks"). At a = 0 this is the
weight-optimal constant, which is what a model that has learnt nothing is calibrated to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voco_data.labels import ORGAN_TARGETS, TargetTable
from voco_models.evaluation.metrics import EPSILON, Float, Int, Probabilities, Truths

STEPS = 100
"""Newton steps at most; a handful is usual."""
RIDGE = 0.5
"""Pull of `a` toward 1 and of `b` toward 0, in patients."""
TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Calibration:
    """For each group, the factor `a` and a bias a class: (a, b_0, b_1, ...)."""

    by_group: dict[str, tuple[float, ...]]

    @classmethod
    def identity(cls, targets: TargetTable = ORGAN_TARGETS) -> Calibration:
        """Leaves probabilities as they are."""
        return cls({g.name: _identity(len(g.classes)) for g in targets})

    def apply(self, probabilities: Probabilities) -> dict[str, Float]:
        """Calibrated probabilities of every group, (N, C)."""
        return {
            name: _softmax(_features(probabilities[name]) @ np.array(parameters))
            for name, parameters in self.by_group.items()
        }


def fit_calibration(
    probabilities: Probabilities, truths: Truths, targets: TargetTable = ORGAN_TARGETS
) -> Calibration:
    """Fit each group by Newton's method. Pass out-of-fold predictions only."""
    return Calibration(
        {
            g.name: tuple(_fit_group(probabilities[g.name], truths[g.name], g.weights).tolist())
            for g in targets
        }
    )


def _identity(n_classes: int) -> tuple[float, ...]:
    """Parameters of a group that change nothing."""
    return (1.0, *[0.0] * n_classes)


def _fit_group(probabilities: Float, truth: Int, class_weights: tuple[float, ...]) -> Float:
    """Minimise the weighted log loss plus the ridge; convex in the parameters."""
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
    return parameters


def _features(probabilities: Float) -> Float:
    """(N, C, 1 + C): log p_c, then the class's indicator."""
    logs = np.log(np.clip(probabilities, EPSILON, 1))
    n_classes = logs.shape[1]
    indicator = np.broadcast_to(np.eye(n_classes), (len(logs), n_classes, n_classes))
    return np.concatenate([logs[:, :, None], indicator], axis=2)


def _softmax(logits: Float) -> Float:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float64)
