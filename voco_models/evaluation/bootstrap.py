"""Confidence intervals by resampling patients (percentile bootstrap; Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95
CELLS_PER_CALL = 2**20
"""Largest number of resamples times patients in one call of a statistic: it bounds the memory."""

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], dict[str, FloatArray]]
"""Function of counts (R, N) to named values (R,): patient i is counts[r, i] times in resample r.

A curve has values (R, K).
"""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value on all patients, and its interval over resamples of the patients."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The interval as a plain mapping."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Resampled:
    """Values on all patients and on resamples of them, by name."""

    values: dict[str, FloatArray]
    """() or (K,) by name."""
    resampled: dict[str, FloatArray]
    """(R,) or (R, K) by name."""

    def interval(self, name: str, level: float = CONFIDENCE_LEVEL) -> Interval:
        """The percentile interval of a value. Resamples in which it is NaN are left out."""
        low, high = np.nanpercentile(self.resampled[name], _percents(level))
        return Interval(float(self.values[name]), float(low), float(high))

    def band(
        self, name: str, level: float = CONFIDENCE_LEVEL
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """A curve (K,) and the ends of its percentile interval at each point, (K,) each."""
        low, high = np.percentile(self.resampled[name], _percents(level), axis=0)
        return self.values[name], low, high

    def standard_error(self, name: str) -> float:
        """The standard deviation of a value over the resamples; those with NaN are left out."""
        return float(np.nanstd(self.resampled[name], ddof=1))


def resample(
    statistic: Statistic,
    n_patients: int,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
) -> Resampled:
    """Values of `statistic` on all patients and on resamples of them.

    All values use the same resamples, so the interval of a difference is that of paired values.
    """
    values = {name: value[0] for name, value in statistic(np.ones((1, n_patients))).items()}
    probabilities = np.full(n_patients, 1 / n_patients)
    counts = rng.multinomial(n_patients, probabilities, size=resamples)
    rows = max(1, CELLS_PER_CALL // n_patients)
    parts = [
        statistic(counts[start : start + rows].astype(np.float64))
        for start in range(0, resamples, rows)
    ]
    return Resampled(values, {name: np.concatenate([p[name] for p in parts]) for name in values})


def bootstrap_interval(
    statistic: Statistic,
    n_patients: int,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = CONFIDENCE_LEVEL,
) -> dict[str, Interval]:
    """Intervals of level `level` of all values that `statistic` names, from `resample`."""
    found = resample(statistic, n_patients, rng, resamples=resamples)
    return {name: found.interval(name, level) for name in found.values}


def _percents(level: float) -> list[float]:
    """The two percentiles that enclose the share `level`."""
    tail = 100 * (1 - level) / 2
    return [tail, 100 - tail]
