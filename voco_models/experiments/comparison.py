"""Scores of an experiment: by arm, backbone and fraction, with intervals, and paired differences.

Every run is tested on the same patients, those of the frozen split. See `resampling` for intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from voco_data.errors import InputError
from voco_models.evaluation import (
    ORGAN_SCORE,
    FloatArray,
    IntArray,
    metrics,
    predictions,
    read_decision,
)
from voco_models.experiments.jobs import Trial
from voco_models.experiments.resampling import (
    SEED,
    Score,
    patient_counts,
    seed_shares,
    summarise,
)

MEAN_AP, PRECISION, RECALL = "mean_average_precision", "macro_precision", "macro_recall"
SCORES = (ORGAN_SCORE, MEAN_AP, PRECISION, RECALL)
"""As in the tables of the paper. The first is better if it is lower, the others if higher."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the tables: its runs differ in the seed alone."""

    arm: str
    backbone: str
    label_fraction: float


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


def compare(trials: Sequence[Trial], reference: str) -> Comparison:
    """Score the finished runs of all trials.

    Raises InputError if runs were tested on different patients or labels.
    """
    cells: dict[Cell, list[Trial]] = {}
    for trial in trials:
        cells.setdefault(Cell(trial.arm, trial.backbone, trial.label_fraction), []).append(trial)
    outcomes = {trial: _read_outcome(trial) for trial in trials}
    n_patients = _check_same_patients(outcomes)
    seeds = tuple(dict.fromkeys(trial.seed for trial in trials))
    rng = np.random.default_rng(SEED)
    counts = patient_counts(n_patients, rng)
    shares = seed_shares(len(seeds), rng)
    values = {
        cell: _score_cell([outcomes[trial] for trial in own], counts) for cell, own in cells.items()
    }
    return Comparison(
        scores={
            cell: {
                name: summarise(
                    values[cell][name],
                    None if cell.arm == reference else values[replace(cell, arm=reference)][name],
                    shares,
                    lower_is_better=name == ORGAN_SCORE,
                )
                for name in SCORES
            }
            for cell in cells
        },
        reference=reference,
        seeds=seeds,
        test_patients=n_patients,
        labelled={cell: outcomes[own[0]].labelled for cell, own in cells.items()},
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The predictions of a trial for the N test patients, of all its runs together."""

    trial: Trial
    patients: tuple[str, ...]
    truths: dict[str, IntArray]
    calibrated: dict[str, FloatArray]
    predicted: dict[str, IntArray]
    labelled: int
    """Patients with labels outside the test set."""


def _read_outcome(trial: Trial) -> _Outcome:
    truths: dict[str, IntArray] = {}
    calibrated: dict[str, FloatArray] = {}
    predicted: dict[str, IntArray] = {}
    patients: set[tuple[str, ...]] = set()
    labelled = 0
    for job in trial.jobs:
        targets = job.recipe.targets
        table = predictions.read_predictions(job.folder / predictions.FILE, targets)
        test = predictions.patient_lines(table, "test")
        decision = read_decision(job.folder, targets)
        raw = predictions.group_probabilities(test, targets)
        truths |= predictions.group_truths(test, targets)
        calibrated |= decision.calibrate(raw)
        predicted |= decision.classify(raw)
        patients.add(tuple(test["patient_id"]))
        labelled = len(predictions.patient_lines(table, "oof"))
    if len(patients) > 1:
        raise InputError(
            f"{trial.name}: its organs were tested on different patients; fill all stores of "
            "organ_stores from the same archive"
        )
    return _Outcome(trial, patients.pop(), truths, calibrated, predicted, labelled)


def _check_same_patients(outcomes: Mapping[Trial, _Outcome]) -> int:
    """The number of test patients. Raises InputError if not all were tested on the same ones."""
    first, *others = outcomes.values()
    for other in others:
        shared = set(first.truths) & set(other.truths)
        if first.patients != other.patients or any(
            not np.array_equal(first.truths[group], other.truths[group]) for group in shared
        ):
            raise InputError(
                f"{other.trial.name}: tested on other patients or labels than {first.trial.name}; "
                f"remove {other.trial.jobs[0].folder}, so that the run is made again"
            )
    return len(first.patients)


def _score_cell(outcomes: Sequence[_Outcome], counts: FloatArray) -> dict[str, FloatArray]:
    """Scores (S, R) of the S seeds of a cell in R resamples of the patients, by name."""
    by_seed = [_score(outcome, counts) for outcome in outcomes]
    return {name: np.stack([scores[name] for scores in by_seed]) for name in SCORES}


def _score(outcome: _Outcome, counts: FloatArray) -> dict[str, FloatArray]:
    calibrated, truths = outcome.calibrated, outcome.truths
    precision, recall = metrics.macro_precision_recall(outcome.predicted, truths, counts)
    return {
        ORGAN_SCORE: metrics.patient_terms(calibrated, truths).scores(counts)[ORGAN_SCORE],
        MEAN_AP: metrics.mean_average_precision(calibrated, truths, counts),
        PRECISION: precision,
        RECALL: recall,
    }
