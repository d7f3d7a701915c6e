"""Calibration by one temperature and class biases an organ, fitted on out-of-fold predictions.

q_c ~ exp(a * log p_c + b_c), with a and b minimising the weighted log loss that the score is made
of (Platt 1999; Guo et al. 2017, "On Calibration of Modern Neural Networks"). At a = 0 this is the
weight-optimal constant, so a model that has learnt nothing falls back to that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voco_data.labels.table import GRADES, ORGANS
from voco_models.evaluation.metrics import EPSILON, GROUP_WEIGHTS, Float, Int, Probabilities, Truths

STEPS = 100
"""Newton steps at most; a handful is usual."""
RIDGE = 0.5
"""Pull of `a` toward 1 and of `b` toward 0, in patients."""
TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Calibration:
    """For each organ, (a, b_healthy, b_low, b_high)."""

    by_organ: dict[str, tuple[float, ...]]

    def apply(self, probabilities: Probabilities) -> dict[str, Float]:
        """Calibrated probabilities of every organ, (N, 3)."""
        return {
            organ: _softmax(_features(probabilities[organ]) @ np.array(parameters))
            for organ, parameters in self.by_organ.items()
        }


IDENTITY = Calibration(dict.fromkeys(ORGANS, (1.0, 0.0, 0.0, 0.0)))
"""Leaves probabilities as they are."""


def fit_calibration(probabilities: Probabilities, truths: Truths) -> Calibration:
    """Fit each organ by Newton's method. Pass out-of-fold predictions only."""
    return Calibration(
        {
            organ: tuple(_fit(probabilities[organ], truths[organ], GROUP_WEIGHTS[organ]).tolist())
            for organ in ORGANS
        }
    )


def _fit(probabilities: Float, truth: Int, class_weights: tuple[float, ...]) -> Float:
    """Minimise the weighted log loss plus the ridge; convex in the four parameters."""
    features = _features(probabilities)
    weights = np.array(class_weights)[truth]
    weights *= len(truth) / weights.sum()
    start = np.array([1.0, 0.0, 0.0, 0.0])
    parameters = start.copy()
    target = np.eye(len(GRADES))[truth]
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
    indicator = np.broadcast_to(np.eye(len(GRADES)), (len(logs), len(GRADES), len(GRADES)))
    return np.concatenate([logs[:, :, None], indicator], axis=2)


def _softmax(logits: Float) -> Float:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float64)
