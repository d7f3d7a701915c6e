"""Scores of the rows of `voco bench heads`, on the same patients and the same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from voco_data.labels import ORGAN_TARGETS, TargetTable
from voco_models.bench.head_training import HeadSetting
from voco_models.evaluation import (
    ORGAN_SCORE,
    FloatArray,
    Interval,
    bootstrap_interval,
    fit_calibration,
    metrics,
    predictions,
)
from voco_models.stages import FinetunePlan

BOOTSTRAP_SEED = 20260101

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """One row before it is scored."""

    setting: HeadSetting
    parameters: int
    tables: list[pd.DataFrame]
    """Out-of-fold patient lines, one table per seed."""
    seconds: float
    processor_s: float


@dataclass(frozen=True, slots=True)
class HeadScores:
    """Scores of the rows; names are `<row>/<measure>`."""

    intervals: Mapping[str, Interval]
    """Means over seeds, with intervals over patients."""
    by_seed: Mapping[str, list[float]]
    """`ORGAN_SCORE` of each seed, by row."""


def score_heads(
    plan: FinetunePlan, trained: Sequence[TrainedHead]
) -> tuple[HeadScores, dict[str, float]]:
    """Scores and gains of all rows on the same resamples, and the losses of the best constant."""
    first = trained[0].tables[0]
    truths = predictions.group_truths(first, plan.targets)
    n = len(first)
    constant = metrics.patient_terms(
        {
            group.name: np.tile(
                metrics.optimal_constant(truths[group.name], group.weights, absent_count=0.0),
                (n, 1),
            )
            for group in plan.targets
        },
        truths,
    )
    raw = _terms(plan, trained, truths, calibrate=False)
    terms = _terms(plan, trained, truths, calibrate=True) if plan.recipe.calibrate else raw
    reference = _name(trained[0].setting)

    def statistic(counts: FloatArray) -> dict[str, FloatArray]:
        best = constant.scores(counts)
        means: dict[str, dict[str, FloatArray]] = {}
        for name, of_seeds in terms.items():
            scores = [each.scores(counts) for each in of_seeds]
            means[name] = {key: np.mean([s[key] for s in scores], axis=0) for key in scores[0]}
        values = {}
        for name, mean in means.items():
            values[f"{name}/score"] = mean[ORGAN_SCORE]
            values[f"{name}/uncalibrated"] = np.mean(
                [each.scores(counts)[ORGAN_SCORE] for each in raw[name]], axis=0
            )
            values[f"{name}/minus_first"] = mean[ORGAN_SCORE] - means[reference][ORGAN_SCORE]
            for organ in ORGAN_TARGETS.names:
                values[f"{name}/{organ}"] = best[organ] - mean[organ]
        return values

    one = metrics.unit_counts(n)
    by_seed = {
        name: [float(each.scores(one)[ORGAN_SCORE][0]) for each in of_seeds]
        for name, of_seeds in terms.items()
    }
    intervals = bootstrap_interval(statistic, n, np.random.default_rng(BOOTSTRAP_SEED))
    best = constant.scores(one)
    names = (ORGAN_SCORE, *ORGAN_TARGETS.names)
    return HeadScores(intervals, by_seed), {name: round(float(best[name][0]), 4) for name in names}


def _terms(
    plan: FinetunePlan,
    trained: Sequence[TrainedHead],
    truths: metrics.Truths,
    *,
    calibrate: bool,
) -> dict[str, list[metrics.PatientTerms]]:
    """Losses of the patients by row, of each seed."""
    return {
        _name(each.setting): [
            metrics.patient_terms(
                cross_calibrate(table, plan.targets)
                if calibrate
                else predictions.group_probabilities(table, plan.targets),
                truths,
            )
            for table in each.tables
        ]
        for each in trained
    }


def cross_calibrate(table: pd.DataFrame, targets: TargetTable) -> dict[str, FloatArray]:
    """Probabilities (N, C) by group of N out-of-fold lines, in their order.

    Those of a fold are calibrated on the lines of all other folds, so no patient on itself.
    """
    raw = predictions.group_probabilities(table, targets)
    calibrated = {name: values.copy() for name, values in raw.items()}
    for fold in sorted(set(table["fold"])):
        own = (table["fold"] == fold).to_numpy()
        others = table[~own]
        calibration = fit_calibration(
            predictions.group_probabilities(others, targets),
            predictions.group_truths(others, targets),
            targets,
        )
        applied = calibration.apply(predictions.group_probabilities(table[own], targets))
        for name, values in applied.items():
            calibrated[name][own] = values
    return calibrated


def _name(setting: HeadSetting) -> str:
    return f"{setting.head}:{setting.kind}"


def make_row(each: TrainedHead, scores: HeadScores) -> Result:
    """A line of the table. `low` and `high` are the interval of the score."""
    name = _name(each.setting)
    score, seeds = scores.intervals[f"{name}/score"], scores.by_seed[name]
    line: Result = {
        "head": each.setting.head,
        "features": each.setting.kind,
        "parameters": each.parameters,
        ORGAN_SCORE: score.value,
        "sd": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
        "low": score.low,
        "high": score.high,
        "uncalibrated": scores.intervals[f"{name}/uncalibrated"].value,
    }
    intervals = {}
    for organ in ORGAN_TARGETS.names:
        gain = scores.intervals[f"{name}/{organ}"]
        line[f"{organ}_gain"] = gain.value
        intervals[organ] = gain.to_json()
    return line | {
        "seconds": round(each.seconds, 1),
        "processor_s": round(each.processor_s, 1),
        "by_seed": dict(enumerate(seeds)),
        "gains": intervals,
    }


def make_differences(trained: Sequence[TrainedHead], scores: HeadScores) -> list[Result]:
    """Each row less the first one, on the same patients: below 0 is better than the first."""
    first = trained[0].setting
    return [
        {"head": each.setting.head, "features": each.setting.kind, "minus": _name(first)}
        | scores.intervals[f"{_name(each.setting)}/minus_first"].to_json()
        for each in trained[1:]
    ]
