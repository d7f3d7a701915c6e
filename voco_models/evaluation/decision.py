"""Calibrated probabilities and predicted classes from the probabilities of a model.

Calibration and thresholds are fitted on out-of-fold predictions and saved in `RUN/decision.json`.
They do not depend on test patients.

The predicted class of a group is argmax_c p_c / t_c: the smaller the threshold t_c of a class, the
less probability it needs. Equal thresholds give argmax_c p_c.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS, TargetTable
from voco_data.storage import atomic
from voco_models.evaluation.calibration import Calibration, fit_calibration
from voco_models.evaluation.metrics import FloatArray, IntArray, Probabilities, Truths, confusion
from voco_models.evaluation.predictions import group_probabilities, group_truths

DECISION_FILE = "decision.json"

GRID = 20
"""Thresholds are multiples of 1 / GRID with the sum 1."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds by group, one per class: positive, with the sum 1. ValueError for others."""

    by_group: dict[str, tuple[float, ...]]
    targets: TargetTable = ORGAN_TARGETS
    """The groups and their classes."""

    def __post_init__(self) -> None:
        for name, values in self.by_group.items():
            count = len(self.targets[name].classes)
            if len(values) != count or min(values) <= 0 or abs(sum(values) - 1) > 1e-9:
                raise ValueError(
                    f"thresholds of {name} must be {count} positive numbers of sum 1, got {values}"
                )

    def decide(self, probabilities: Probabilities) -> dict[str, IntArray]:
        """Predicted classes (N,) by group, of probabilities (N, C)."""
        return {g: decide(probabilities[g], np.array(t)) for g, t in self.by_group.items()}


def decide(probabilities: FloatArray, thresholds: FloatArray) -> IntArray:
    """argmax_c p_c / t_c, (N,), of probabilities (N, C) and thresholds (C,)."""
    return np.asarray(np.argmax(probabilities / thresholds, axis=1), np.int64)


def fit_thresholds(
    probabilities: Probabilities, truths: Truths, targets: TargetTable = ORGAN_TARGETS
) -> Thresholds:
    """The thresholds of each group with the highest macro F1 on the given predictions.

    Of equally good ones, those nearest to equal thresholds. Use out-of-fold predictions only.
    """
    fitted = {name: _fit_group(probabilities[name], truths[name]) for name in targets.names}
    return Thresholds(fitted, targets)


def macro_f1(truth: IntArray, predicted: IntArray, n_classes: int) -> float:
    """Mean F1 over the classes that occur in `truth`."""
    counts = confusion(truth, predicted, n_classes)
    n_predicted, n_true = counts.sum(axis=0), counts.sum(axis=1)
    f1 = 2 * np.diag(counts) / np.maximum(n_predicted + n_true, 1)
    return float(f1[n_true > 0].mean())


def _fit_group(probabilities: FloatArray, truth: IntArray) -> tuple[float, ...]:
    n_classes = probabilities.shape[1]
    grid = _threshold_grid(n_classes)
    scores = [macro_f1(truth, decide(probabilities, t), n_classes) for t in grid]
    # The grid is sorted by distance from equal thresholds; np.argmax takes the first maximum.
    best = grid[int(np.argmax(scores))]
    return tuple(float(value) for value in best)


def _threshold_grid(n_classes: int) -> FloatArray:
    """(T, C): equal thresholds, and all positive multiples of 1 / GRID with the sum 1.

    Sorted by distance from equal thresholds.
    """
    cuts = itertools.combinations(range(1, GRID), n_classes - 1)
    parts = np.array([np.diff((0, *cut, GRID)) for cut in cuts], np.float64)
    points = np.concatenate([np.full((1, n_classes), 1 / n_classes), parts / GRID])
    return points[np.argsort(np.square(points - 1 / n_classes).sum(axis=1), kind="stable")]


@dataclass(frozen=True, slots=True)
class Decision:
    """A calibration, and thresholds for calibrated probabilities."""

    calibration: Calibration
    thresholds: Thresholds

    def calibrate(self, raw: Probabilities) -> dict[str, FloatArray]:
        """Calibrated probabilities (N, C) by group, of the model's probabilities."""
        return self.calibration.apply(raw)

    def classify(self, raw: Probabilities) -> dict[str, IntArray]:
        """Predicted classes (N,) by group, of the model's probabilities."""
        return self.thresholds.decide(self.calibrate(raw))

    def to_json(self) -> str:
        """JSON text that keeps every bit of the parameters."""
        parts = {
            "calibration": {g: list(v) for g, v in self.calibration.by_group.items()},
            "thresholds": {g: list(v) for g, v in self.thresholds.by_group.items()},
        }
        return json.dumps(parts, indent=2, sort_keys=True) + "\n"


def fit_decision(
    out_of_fold: pd.DataFrame, targets: TargetTable = ORGAN_TARGETS, *, calibrate: bool
) -> Decision:
    """Fit on the patient lines of out-of-fold predictions; without `calibrate`, only thresholds."""
    raw, truths = group_probabilities(out_of_fold, targets), group_truths(out_of_fold, targets)
    calibration = (
        fit_calibration(raw, truths, targets) if calibrate else Calibration.identity(targets)
    )
    return Decision(calibration, fit_thresholds(calibration.apply(raw), truths, targets))


def write_decision(run: Path, decision: Decision) -> None:
    """Write `RUN/decision.json`."""
    atomic.write_text(run / DECISION_FILE, decision.to_json())


def read_decision(run: Path, targets: TargetTable = ORGAN_TARGETS) -> Decision:
    """Read `RUN/decision.json`. Raises InputError if it is missing, damaged or of other groups."""
    path = run / DECISION_FILE
    try:
        data = json.loads(path.read_text())
        calibration = {g: tuple(map(float, v)) for g, v in data["calibration"].items()}
        thresholds = {g: tuple(map(float, v)) for g, v in data["thresholds"].items()}
        expected = {group.name: 1 + len(group.classes) for group in targets}
        if {g: len(v) for g, v in calibration.items()} != expected or set(thresholds) != set(
            expected
        ):
            raise ValueError("of other groups")
        return Decision(Calibration(calibration), Thresholds(thresholds, targets))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected the decision of a finished fine-tuning run") from error
