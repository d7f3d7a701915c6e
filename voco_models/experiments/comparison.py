"""Scores of an experiment: by arm, backbone and fraction, with intervals, and paired differences.

Every run is tested on the same patients, those of the frozen split. An interval is over resamples
of these patients and, with several seeds, of the seeds; all cells use the same resamples, so the
interval of a difference is that of paired values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from voco_data.errors import InputError
from voco_data.labels import RSNA_TARGETS, TargetTable
from voco_models.evaluation import (
    CONFIDENCE_LEVEL,
    ORGAN_SCORE,
    RESAMPLES,
    FloatArray,
    Interval,
    metrics,
    predictions,
    read_decision,
)
from voco_models.experiments.jobs import FinetuneJob

MEAN_AP, PRECISION, RECALL = "mean_average_precision", "macro_precision", "macro_recall"
SCORES = (ORGAN_SCORE, MEAN_AP, PRECISION, RECALL)
"""As in the tables of the paper. The first is better if it is lower, the others if higher."""

SEED = 20260101
"""Of the resamples."""
POWER_FACTOR = 2.8
"""Standard errors of the smallest difference that a comparison would probably have shown: 1.96 for
a two-sided level of 5 %, and 0.84 for a power of 80 %."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the tables: its runs differ in the seed alone."""

    arm: str
    backbone: str
    label_fraction: float


@dataclass(frozen=True, slots=True)
class Score:
    """A score of the runs of a cell."""

    mean: Interval
    """Mean over the seeds."""
    by_seed: tuple[float, ...]
    gain: Interval | None
    """By which the cell is better than the reference; None for the reference itself."""
    detectable: float | None
    """Smallest difference to the reference that this comparison would probably have shown."""

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds; None with one seed."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All scores of an experiment."""

    scores: dict[Cell, dict[str, Score]]
    """By cell, then by name."""
    reference: str
    seeds: tuple[int, ...]
    test_patients: int
    labelled: dict[Cell, int]
    """Patients with labels outside the test set."""


def compare(jobs: Sequence[FinetuneJob], reference: str) -> Comparison:
    """Score the finished runs of all jobs.

    Raises InputError if runs were tested on different patients or labels.
    """
    cells: dict[Cell, list[FinetuneJob]] = {}
    for job in jobs:
        cells.setdefault(Cell(job.arm, job.backbone, job.label_fraction), []).append(job)
    tests = {job.folder: _read_test(job) for job in jobs}
    _check_same_patients(tests)
    n_patients = len(next(iter(tests.values())))
    n_seeds = len(next(iter(cells.values())))
    rng = np.random.default_rng(SEED)
    counts = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=RESAMPLES)
    draws = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=RESAMPLES) / n_seeds
    # Row 0 is the cohort itself, with every patient and every seed once.
    all_counts = np.concatenate([np.ones((1, n_patients)), counts])
    all_draws = np.concatenate([np.full((1, n_seeds), 1 / n_seeds), draws])
    values = {
        cell: _score_cell([(job, tests[job.folder]) for job in own], all_counts)
        for cell, own in cells.items()
    }
    return Comparison(
        scores={
            cell: {name: _summarise(name, cell, values, all_draws, reference) for name in SCORES}
            for cell in cells
        },
        reference=reference,
        seeds=tuple(dict.fromkeys(job.seed for job in jobs)),
        test_patients=n_patients,
        labelled={cell: _count_labelled(own[0]) for cell, own in cells.items()},
    )


def _read_test(job: FinetuneJob) -> pd.DataFrame:
    """The test patients of a run, sorted."""
    table = predictions.read_predictions(job.folder / predictions.FILE, job.recipe.targets)
    return predictions.patient_lines(table, "test")


def _check_same_patients(tests: Mapping[Path, pd.DataFrame]) -> None:
    truths = [
        column for g in RSNA_TARGETS for column in predictions.truth_columns(TargetTable((g,)))
    ]
    folders = list(tests)
    first = tests[folders[0]]
    for folder in folders[1:]:
        other = tests[folder]
        shared = ["patient_id", *(c for c in truths if c in first and c in other)]
        if not first[shared].equals(other[shared]):
            raise InputError(
                f"{folder}: tested on other patients or labels than {folders[0]}; remove the "
                "folder, so that the run is made again"
            )


def _count_labelled(job: FinetuneJob) -> int:
    table = predictions.read_predictions(job.folder / predictions.FILE, job.recipe.targets)
    return len(predictions.patient_lines(table, "oof"))


def _score_cell(
    runs: Sequence[tuple[FinetuneJob, pd.DataFrame]], counts: FloatArray
) -> dict[str, FloatArray]:
    """Scores (S, R) of S runs in R resamples of the patients, by name."""
    by_run = [_score_run(job, test, counts) for job, test in runs]
    return {name: np.stack([run[name] for run in by_run]) for name in SCORES}


def _score_run(job: FinetuneJob, test: pd.DataFrame, counts: FloatArray) -> dict[str, FloatArray]:
    targets = job.recipe.targets
    decision = read_decision(job.folder, targets)
    raw = predictions.group_probabilities(test, targets)
    truths = predictions.group_truths(test, targets)
    calibrated, predicted = decision.calibrate(raw), decision.classify(raw)
    precision, recall = metrics.macro_precision_recall(predicted, truths, counts)
    return {
        ORGAN_SCORE: metrics.patient_terms(calibrated, truths).scores(counts)[ORGAN_SCORE],
        MEAN_AP: metrics.mean_average_precision(calibrated, truths, counts),
        PRECISION: precision,
        RECALL: recall,
    }


def _summarise(
    name: str,
    cell: Cell,
    values: Mapping[Cell, Mapping[str, FloatArray]],
    draws: FloatArray,
    reference: str,
) -> Score:
    """The score `name` of a cell; `draws` (R, S) are the shares of the seeds in each resample."""
    own = values[cell][name]
    means = np.einsum("rs,sr->r", draws, own)
    gain: Interval | None = None
    detectable: float | None = None
    if cell.arm != reference:
        other = values[Cell(reference, cell.backbone, cell.label_fraction)][name]
        sign = -1 if name == ORGAN_SCORE else 1
        gains = sign * (means - np.einsum("rs,sr->r", draws, other))
        gain = _interval(gains)
        detectable = POWER_FACTOR * float(np.std(gains[1:], ddof=1))
    return Score(
        mean=_interval(means),
        by_seed=tuple(own[:, 0].tolist()),
        gain=gain,
        detectable=detectable,
    )


def _interval(values: FloatArray) -> Interval:
    """The first value, and the interval of the others."""
    tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.nanpercentile(values[1:], [tail, 100 - tail])
    return Interval(float(values[0]), float(low), float(high))
