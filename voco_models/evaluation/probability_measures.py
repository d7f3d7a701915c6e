"""Whether probabilities are right as probabilities: Brier score, calibration error, reliability.

The score weights a patient by the true class, so the best prediction for it is p_c ~ w_c * P_c,
where P_c is the share of class c among such patients. `remove_weights` gives P_c back. (A model
that was trained with other weights, and is not calibrated, has those in its probabilities.) The
measures of this module, and decision curves, are of P.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_models.evaluation.bootstrap import Interval
from voco_models.evaluation.metrics import FloatArray, IntArray, normalise_rows

ECE_BINS = 15
"""Equal-width bins of the confidence (Guo et al. 2017)."""
RELIABILITY_BINS = 10
Z_95 = 1.959963984540054
"""97.5th percentile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Patients whose predicted probability is in one bin."""

    patients: int
    predicted: float
    """Mean predicted probability."""
    observed: Interval
    """Share of patients with the event, with Wilson's interval."""

    def to_json(self) -> dict[str, object]:
        """The bin as plain values."""
        return {
            "patients": self.patients,
            "predicted": self.predicted,
            "observed": self.observed.to_json(),
        }


def remove_weights(probabilities: FloatArray, weights: tuple[float, ...]) -> FloatArray:
    """Probabilities (N, C) of patients: p_c / w_c, normalised."""
    return normalise_rows(probabilities / np.array(weights))


def brier_score(probabilities: FloatArray, truth: IntArray, counts: FloatArray) -> FloatArray:
    """Mean over patients of sum_c (p_c - y_c)^2, (R,), between 0 and 2 (Brier 1950).

    As scikit-learn's brier_score_loss for several classes, which halves it for two classes.
    """
    classes = np.eye(probabilities.shape[1])[truth]
    errors = np.square(probabilities - classes).sum(axis=1)
    return np.asarray(counts @ errors / counts.sum(axis=1))


def calibration_error(probabilities: FloatArray, truth: IntArray, counts: FloatArray) -> FloatArray:
    """Expected calibration error (ECE) of the confidence max_c p_c, (R,) (Guo et al. 2017).

    sum_b n_b / n * |accuracy_b - mean confidence_b| over `ECE_BINS` equal-width bins.
    """
    confidence, correct = _confidence(probabilities, truth)
    members = _bin_members(confidence, ECE_BINS)
    gaps = counts @ (members * (correct - confidence)[:, None])
    return np.asarray(np.abs(gaps).sum(axis=1) / counts.sum(axis=1))


def calibration_error_by_chance(
    probabilities: FloatArray, rng: np.random.Generator, draws: int = 1000
) -> float:
    """Mean ECE of patients (N, C) whose classes are drawn from the probabilities themselves.

    Perfectly calibrated predictions of few patients have such an ECE, not 0.
    """
    confidence = probabilities.max(axis=1)
    members = _bin_members(confidence, ECE_BINS)
    drawn = rng.random((draws, len(confidence))) < confidence
    gaps = (drawn - confidence) @ members
    return float(np.abs(gaps).sum(axis=1).mean() / len(confidence))


def reliability_curve(
    probability: FloatArray, event: npt.NDArray[np.bool_]
) -> list[ReliabilityBin]:
    """The bins with patients, of `RELIABILITY_BINS` equal-width ones, by predicted probability.

    `probability` and `event` are (N,). As scikit-learn's calibration_curve.
    """
    members = _bin_members(probability, RELIABILITY_BINS).astype(bool)
    return [
        ReliabilityBin(
            patients=int(inside.sum()),
            predicted=float(probability[inside].mean()),
            observed=wilson_interval(int(event[inside].sum()), int(inside.sum())),
        )
        for inside in members.T
        if inside.any()
    ]


def wilson_interval(hits: int, count: int) -> Interval:
    """The proportion `hits` / `count` and its 95 % score interval (Wilson 1927).

    Unlike that of resampling, it has a width where all or none of the patients are hits.
    """
    share, z2 = hits / count, Z_95**2
    centre = (hits + z2 / 2) / (count + z2)
    half = Z_95 / (count + z2) * math.sqrt(count * share * (1 - share) + z2 / 4)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def _confidence(probabilities: FloatArray, truth: IntArray) -> tuple[FloatArray, FloatArray]:
    """Largest probability, and 1 where its class is the true one; (N,) each."""
    correct = probabilities.argmax(axis=1) == truth
    return probabilities.max(axis=1), correct.astype(np.float64)


def _bin_members(probability: FloatArray, bins: int) -> FloatArray:
    """(N, bins): 1 in the bin (low, high] of each probability; the first one contains 0."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.eye(bins)[np.searchsorted(inner, probability)]
