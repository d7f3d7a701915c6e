"""Confidence intervals by resampling patients (percentile bootstrap; Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95

Float = npt.NDArray[np.float64]
Statistic = Callable[[Float], dict[str, Float]]
"""Named values (R,) of R resamples, in which patient i comes counts[r, i] times; counts (R, N)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value on all patients with its interval over resampled patients."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """As a plain mapping."""
        return {"value": self.value, "low": self.low, "high": self.high}


def bootstrap_interval(
    statistic: Statistic,
    n_patients: int,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Interval of every named value. All values see the same resamples, so that a difference that
    `statistic` returns is a paired one. Resamples in which a value is NaN do not count for it.
    """
    values = statistic(np.ones((1, n_patients)))
    chances = np.full(n_patients, 1 / n_patients)
    draws = statistic(rng.multinomial(n_patients, chances, size=resamples).astype(np.float64))
    tail = 100 * (1 - level) / 2
    intervals = {}
    for name, value in values.items():
        low, high = np.nanpercentile(draws[name], [tail, 100 - tail])
        intervals[name] = Interval(float(value[0]), float(low), float(high))
    return intervals
