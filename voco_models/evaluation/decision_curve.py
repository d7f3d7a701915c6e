"""Decision curves: what acting on a probability of injury is worth (Vickers and Elkin 2006).

Who acts from a probability t on holds one missed injury for as bad as (1 - t) / t false alarms. The
net benefit is the share of patients found, less the false alarms in this currency:

    TP / n - FP / n * t / (1 - t)

A model is of use at t if its net benefit is above that of acting on all patients and of none (0).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voco_models.evaluation.metrics import FloatArray

THRESHOLDS: FloatArray = np.arange(1, 100) / 100
"""Probabilities (T,) at which the curves are computed."""


def net_benefit(
    probability: FloatArray, injured: npt.NDArray[np.bool_], counts: FloatArray
) -> FloatArray:
    """Net benefit (R, T) of acting on patients with `probability` >= t; both inputs are (N,)."""
    called = probability[:, None] >= THRESHOLDS
    found = counts @ (called & injured[:, None])
    alarms = counts @ (called & ~injured[:, None])
    odds = THRESHOLDS / (1 - THRESHOLDS)
    return np.asarray((found - alarms * odds) / counts.sum(axis=1, keepdims=True))


def net_benefit_of_all(injured: npt.NDArray[np.bool_]) -> FloatArray:
    """Net benefit (T,) of acting on every patient."""
    share = injured.mean()
    return np.asarray(share - (1 - share) * THRESHOLDS / (1 - THRESHOLDS))
