"""Decision thresholds, chosen on out-of-fold predictions only, then frozen.

An organ's decision is argmax_c p_c / t_c: a class needs t_c more or less of the probability to win.
t = (1/3, 1/3, 1/3) is the plain argmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voco_data.labels.table import GRADES, ORGANS
from voco_models.evaluation.metrics import Float, Int, Probabilities, Truths, confusion

GRID = 20
"""Thresholds are multiples of 1 / GRID that sum to 1."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """For each organ, thresholds of (healthy, low, high): positive, with the sum 1."""

    by_organ: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        for organ, values in self.by_organ.items():
            if len(values) != len(GRADES) or min(values) <= 0 or abs(sum(values) - 1) > 1e-9:
                raise ValueError(f"thresholds of {organ} must be 3 positive numbers of sum 1")

    def decide(self, probabilities: Probabilities) -> dict[str, Int]:
        """Class (N,) of every organ."""
        return {o: decide(probabilities[o], np.array(t)) for o, t in self.by_organ.items()}


def decide(probabilities: Float, thresholds: Float) -> Int:
    """argmax_c p_c / t_c, (N,)."""
    return np.asarray(np.argmax(probabilities / thresholds, axis=1), np.int64)


def fit_thresholds(probabilities: Probabilities, truths: Truths) -> Thresholds:
    """The thresholds of each organ with the best macro F1 on the given predictions.

    Among equals, the ones nearest to the plain argmax. Pass out-of-fold predictions only.
    """
    return Thresholds({organ: _fit(probabilities[organ], truths[organ]) for organ in ORGANS})


def macro_f1(truth: Int, predicted: Int) -> float:
    """Mean F1 over the classes that `truth` has."""
    counts = confusion(truth, predicted)
    called, actual = counts.sum(axis=0), counts.sum(axis=1)
    f1 = 2 * np.diag(counts) / np.maximum(called + actual, 1)
    return float(f1[actual > 0].mean())


def _fit(probabilities: Float, truth: Int) -> tuple[float, ...]:
    grid = _simplex()
    scores = [macro_f1(truth, decide(probabilities, t)) for t in grid]
    # The grid is sorted by distance from argmax, and argmax takes the first of equals.
    best = grid[int(np.argmax(scores))]
    return tuple(float(value) for value in best)


def _simplex() -> Float:
    """Every triple of positive multiples of 1 / GRID with the sum 1, nearest to 1/3 each first."""
    triples = np.array(
        [(a, b, GRID - a - b) for a in range(1, GRID) for b in range(1, GRID - a)], np.float64
    )
    triples = np.concatenate([np.full((1, 3), 1 / 3), triples / GRID])
    return triples[np.argsort(np.square(triples - 1 / 3).sum(axis=1), kind="stable")]
