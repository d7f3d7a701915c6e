"""Means over cases of patients, with intervals by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from voco_models.evaluation import Interval, bootstrap_interval

FloatArray = npt.NDArray[np.float64]
SEED = 0
"""Of the resamples: one explanation has one interval."""


def mean_intervals(
    values: Mapping[str, FloatArray],
    patients: Sequence[str],
    ratios: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Interval]:
    """The mean of each of `values` (N,) over N cases, and ratios of two means by their names.

    Patients are resampled with all their cases. `patients` (N,) are the cases' patients.
    """
    names, of_case = np.unique(np.asarray(patients), return_inverse=True)
    totals = {
        name: np.bincount(of_case, weights=each, minlength=len(names))
        for name, each in values.items()
    }
    cases = np.bincount(of_case, minlength=len(names)).astype(np.float64)

    def statistic(counts: FloatArray) -> dict[str, FloatArray]:
        drawn = counts @ cases
        means = {name: counts @ total / drawn for name, total in totals.items()}
        for name, (above, below) in (ratios or {}).items():
            means[name] = means[above] / means[below]
        return means

    return bootstrap_interval(statistic, len(names), np.random.default_rng(SEED))
