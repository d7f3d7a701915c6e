"""Paired differences between the scores of two models on the same patients.

Both models are scored on the same resamples, so what makes a patient hard for both cancels. The
smallest difference that a comparison could have shown is

    2.8 * SE,  2.8 = 1.96 + 0.84,

where SE is the standard deviation of the difference over the resamples: a true difference of this
size is found by a two-sided test at 5 % in 80 % of such comparisons (Cohen 1988).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from voco_data.labels import TargetTable
from voco_models.evaluation import metrics
from voco_models.evaluation.bootstrap import Interval, resample
from voco_models.evaluation.measures import pooled_values
from voco_models.evaluation.metrics import FloatArray, IntArray, Truths

POWER_FACTOR = 2.8
"""Standard errors between a true difference and 0 for a power of 80 % at 5 %, two-sided."""
POWER_FORMULA = "2.8 x standard error of the paired difference: 80 % power at 5 %, two-sided"


@dataclass(frozen=True, slots=True)
class Scored:
    """A model on the patients of a comparison, N of them."""

    probabilities: dict[str, FloatArray]
    """(N, C) by group, as they are scored."""
    predicted: dict[str, IntArray]
    """(N,) by group with a head, at the thresholds."""
    targets: TargetTable
    """The groups with a head, with the class weights that the probabilities contain."""

    def values(self, truths: Truths, counts: FloatArray) -> dict[str, FloatArray]:
        """Scores (R,) by name, NaN where undefined, for counts (R, N)."""
        heads = {name: self.probabilities[name] for name in self.predicted}
        classes = {
            "argmax": {name: p.argmax(axis=1) for name, p in heads.items()},
            "thresholds": self.predicted,
        }
        losses = metrics.patient_terms(self.probabilities, truths).scores(counts)
        named = (*metrics.SCORES, *heads)
        return {
            **{name: losses[name] for name in named if name in losses},
            "mean_average_precision": metrics.mean_average_precision(
                heads, truths, counts, self.targets
            ),
            **pooled_values(heads, classes, truths, counts, self.targets),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """A score of two models on the same patients."""

    first: Interval
    second: Interval
    difference: Interval
    """First less second."""
    smallest: float
    """The smallest difference that the comparison could have shown, see `POWER_FORMULA`."""
    better: str
    """`lower` or `higher`: which scores are better."""

    @property
    def verdict(self) -> str:
        """`better`, `worse` (the first model), or `not shown` if 0 is in the interval."""
        if self.difference.low <= 0 <= self.difference.high:
            return "not shown"
        return "better" if (self.difference.value > 0) == (self.better == "higher") else "worse"

    def to_json(self) -> dict[str, Any]:
        """The difference as plain values."""
        return {
            "first": self.first.value,
            "second": self.second.value,
            "first_interval": self.first.to_json(),
            "second_interval": self.second.to_json(),
            "difference": self.difference.to_json(),
            "smallest_difference": self.smallest,
            "better": self.better,
            "verdict": self.verdict,
        }


def compare(
    first: Scored, second: Scored, truths: Truths, rng: np.random.Generator
) -> dict[str, Difference | None]:
    """Differences by name of the score; None where a score is not defined on these patients."""

    def statistic(counts: FloatArray) -> dict[str, FloatArray]:
        one, other = first.values(truths, counts), second.values(truths, counts)
        return {
            f"{part} {name}": value
            for name in one
            for part, value in (
                ("first", one[name]),
                ("second", other[name]),
                ("difference", one[name] - other[name]),
            )
        }

    count = len(next(iter(first.predicted.values())))
    found = resample(statistic, count, rng)
    names = [key.partition(" ")[2] for key in found.values if key.startswith("first ")]
    return {
        name: None
        if np.isnan(found.values[f"difference {name}"])
        else Difference(
            first=found.interval(f"first {name}"),
            second=found.interval(f"second {name}"),
            difference=found.interval(f"difference {name}"),
            smallest=POWER_FACTOR * found.standard_error(f"difference {name}"),
            better="lower" if _is_loss(name) else "higher",
        )
        for name in names
    }


def _is_loss(name: str) -> bool:
    """Whether lower values of a score are better: losses by group, Brier scores and ECE."""
    _, slash, measure = name.partition("/")
    return measure in ("ece", "brier") if slash else name != "mean_average_precision"
