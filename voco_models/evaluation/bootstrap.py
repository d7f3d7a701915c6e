"""Confidence intervals by resampling patients (percentile bootstrap; Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], dict[str, FloatArray]]
"""Function of counts (R, N) to named values (R,): patient i is counts[r, i] times in resample r."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value on all patients, and its interval over resamples of the patients."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The interval as a plain mapping."""
        return {"value": self.value, "low": self.low, "high": self.high}


def bootstrap_interval(
    statistic: Statistic,
    n_patients: int,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = CONFIDENCE_LEVEL,
) -> dict[str, Interval]:
    """Intervals of level `level` of all values that `statistic` names.

    All values use the same resamples, so the interval of a difference is that of paired values.
    Resamples in which a value is NaN are left out for this value.
    """
    values = statistic(np.ones((1, n_patients)))
    probabilities = np.full(n_patients, 1 / n_patients)
    counts = rng.multinomial(n_patients, probabilities, size=resamples)
    resampled = statistic(counts.astype(np.float64))
    tail = 100 * (1 - level) / 2
    intervals = {}
    for name, value in values.items():
        low, high = np.nanpercentile(resampled[name], [tail, 100 - tail])
        intervals[name] = Interval(float(value[0]), float(low), float(high))
    return intervals
