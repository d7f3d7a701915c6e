"""Errors of probes by patient, their intervals, and the paired difference of two backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from voco_models.evaluation import FloatArray, Interval, bootstrap_interval

UNITS = {
    "crop": "px",
    "slice": "slices",
    "side": "accuracy",
    "crop_knn_map": "px",
    "crop_knn_mean": "px",
    "crop_ridge_map": "px",
    "crop_ridge_mean": "px",
    "slice_knn": "slices",
    "slice_ridge": "slices",
    "side_knn": "accuracy",
    "side_ridge": "accuracy",
}
"""Probe to unit. Of px and slices, less is better; of accuracy, more."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean over patients with its 95 % interval."""

    probe: str
    unit: str
    interval: Interval
    patients: int

    def to_json(self) -> dict[str, object]:
        """One row of a table."""
        return {
            "probe": self.probe,
            "value": self.interval.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "unit": self.unit,
            "patients": self.patients,
        }


@dataclass(frozen=True, slots=True)
class ProbeTable:
    """What probes of one backbone measured on patients that they were not fitted on."""

    by_patient: Mapping[str, Mapping[str, float]]
    """Probe to patient to the mean error of its samples (or the share of right answers)."""
    rank_me: float
    """Of the averaged feature maps of crops; mean over folds."""
    effective_rank: float

    def estimates(self, seed: int = 0) -> list[Estimate]:
        """Means over patients, each patient counting once, with bootstrap intervals."""
        return estimate(self.by_patient, seed)


def mean_by_patient(values: Tensor, patients: Sequence[str]) -> dict[str, float]:
    """Mean of `values` (N,) for each patient."""
    owners = np.asarray(patients)
    array: npt.NDArray[np.float64] = values.double().numpy()
    return {str(name): float(array[owners == name].mean()) for name in np.unique(owners)}


def difference(one: ProbeTable, other: ProbeTable, seed: int = 0) -> list[Estimate]:
    """`one` minus `other` for each probe, on the same patients: means and intervals of pairs.

    Raises ValueError if the tables are of different patients.
    """
    pairs: dict[str, dict[str, float]] = {}
    for name in one.by_patient.keys() & other.by_patient.keys():
        mine, theirs = one.by_patient[name], other.by_patient[name]
        if mine.keys() != theirs.keys():
            raise ValueError(f"{name}: the two tables are of different patients")
        pairs[name] = {patient: mine[patient] - theirs[patient] for patient in mine}
    ordered = {name: pairs[name] for name in one.by_patient if name in pairs}
    return estimate(ordered, seed)


def estimate(by_patient: Mapping[str, Mapping[str, float]], seed: int) -> list[Estimate]:
    """Means over patients of values by probe and patient, with their bootstrap intervals."""
    found = []
    for name, values in by_patient.items():
        column = np.array([values[patient] for patient in sorted(values)])

        def mean(counts: FloatArray, column: FloatArray = column) -> dict[str, FloatArray]:
            return {"mean": counts @ column / counts.sum(axis=1)}

        interval = bootstrap_interval(mean, len(column), np.random.default_rng(seed))["mean"]
        found.append(Estimate(name, UNITS[name], interval, len(column)))
    return found
