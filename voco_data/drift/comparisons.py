"""Two samples of patients compared: is the difference chance, and how large is it?

Values: the two-sample test of Kolmogorov and Smirnov. Shares and categories: the exact test of
Fisher (of Freeman and Halton for more than two categories, by Monte Carlo). The p-values of all
measures are corrected by the method of Holm (1979): the chance of any alarm without a drift is at
most the level. scipy has the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from voco_data.drift.measures import Measure

QUANTILES: Final = (0.1, 0.5, 0.9)
BINS: Final = 10
"""Bins of the population stability index, of equal shares of the cohort."""
SMOOTHING: Final = 0.5
"""Patients added to each bin, so that an empty one has a logarithm."""
RESAMPLES: Final = 9_999
"""Tables of the Monte Carlo test; p is at least 1 / 10,000."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of the cohort and of the new patients."""

    measure: Measure
    cohort: tuple[Any, ...]
    """Sorted values; one bool, or one name, a patient."""
    new: tuple[Any, ...]
    effect: float
    """Of values the largest difference of the 10 %, 50 % and 90 % quantiles, in the unit of the
    measure or relative to the cohort; else the largest difference of a share. With its sign."""
    psi: float
    """Population stability index: sum of (q - p) ln(q / p) over bins or categories."""
    p: float
    p_holm: float = 1.0
    """Corrected for the number of measures."""

    def is_alarm(self, alpha: float) -> bool:
        """Whether the difference is no chance, and large enough to matter."""
        return self.p_holm < alpha and abs(self.effect) >= self.measure.min_effect


def compare(measure: Measure, cohort: Sequence[Any], new: Sequence[Any]) -> Comparison:
    """Compare one measure; each sample has at least one patient."""
    if measure.kind == "value":
        return _compare_values(
            measure, np.sort(np.asarray(cohort, np.float64)), np.sort(np.asarray(new, np.float64))
        )
    return _compare_names(measure, [*map(str, cohort)], [*map(str, new)])


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p-values by the method of Holm."""
    order = sorted(range(len(comparisons)), key=lambda index: comparisons[index].p)
    corrected, largest = list(comparisons), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, comparisons[index].p * (len(order) - rank)))
        corrected[index] = replace(comparisons[index], p_holm=largest)
    return corrected


def stability_index(cohort: npt.ArrayLike, new: npt.ArrayLike) -> float:
    """The population stability index of two histograms of counts."""
    p, q = (np.asarray(counts, np.float64) + SMOOTHING for counts in (cohort, new))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _compare_values(measure: Measure, cohort: Values, new: Values) -> Comparison:
    before, now = np.quantile(cohort, QUANTILES), np.quantile(new, QUANTILES)
    differences = now - before
    if measure.relative:
        differences = differences / before
    edges = np.unique(np.quantile(cohort, np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, v), minlength=len(edges) + 1) for v in (cohort, new)
    ]
    return Comparison(
        measure=measure,
        cohort=tuple(cohort.tolist()),
        new=tuple(new.tolist()),
        effect=float(differences[np.abs(differences).argmax()]),
        psi=stability_index(*counts),
        p=float(stats.ks_2samp(cohort, new).pvalue),
    )


def _compare_names(measure: Measure, cohort: Sequence[str], new: Sequence[str]) -> Comparison:
    names = sorted({*cohort, *new})
    if measure.kind == "share":
        names = ["True", "False"]
    table = np.array([[sample.count(name) for name in names] for sample in (cohort, new)])
    shares = table / table.sum(axis=1, keepdims=True)
    differences = shares[1] - shares[0]
    return Comparison(
        measure=measure,
        cohort=tuple(cohort),
        new=tuple(new),
        effect=float(differences[0] if measure.kind == "share" else np.abs(differences).max()),
        psi=stability_index(*table),
        p=_fisher(table[:, table.any(axis=0)]),
    )


def _fisher(table: npt.NDArray[np.int64]) -> float:
    """p of a table of two rows."""
    if table.shape[1] < 2:
        return 1.0
    if table.shape[1] == 2:
        return float(stats.fisher_exact(table).pvalue)
    method = stats.MonteCarloMethod(n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return float(stats.fisher_exact(table, method=method).pvalue)
