"""Scores of an experiment: by arm, backbone and fraction, with intervals, and paired differences.

Every run is tested on the same patients, those of the frozen split. An interval is over resamples
of these patients and, with several seeds, of the seeds; all cells use the same resamples, so the
interval of a difference is that of paired values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from voco_data.errors import InputError
from voco_models.evaluation import (
    CONFIDENCE_LEVEL,
    ORGAN_SCORE,
    POWER_FACTOR,
    RESAMPLES,
    FloatArray,
    IntArray,
    Interval,
    metrics,
    predictions,
    read_decision,
)
from voco_models.experiments.jobs import Trial

MEAN_AP, PRECISION, RECALL = "mean_average_precision", "macro_precision", "macro_recall"
SCORES = (ORGAN_SCORE, MEAN_AP, PRECISION, RECALL)
"""As in the tables of the paper. The first is better if it is lower, the others if higher."""

SEED = 20260101
"""Of the resamples."""


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
    counts = _resample(n_patients, n_patients, rng)
    shares = seed_shares(len(seeds), rng)
    values = {
        cell: _score_cell([outcomes[trial] for trial in own], counts) for cell, own in cells.items()
    }
    return Comparison(
        scores={
            cell: {name: _summarise(name, cell, values, shares, reference) for name in SCORES}
            for cell in cells
        },
        reference=reference,
        seeds=seeds,
        test_patients=n_patients,
        labelled={cell: outcomes[own[0]].labelled for cell, own in cells.items()},
    )


def seed_shares(count: int, rng: np.random.Generator) -> FloatArray:
    """Weight of each of `count` seeds in each resample, (1 + RESAMPLES, count); in row 0, equal.

    A resample has one seed less than there are. Then the variance of a mean over the resamples is
    that of the mean, s^2 / count, with s^2 the sample's variance. With `count` seeds in each, it
    would be smaller by (count - 1) / count, which matters for few (Rao and Wu 1988).
    """
    if count == 1:
        return np.ones((1 + RESAMPLES, 1))
    shares = _resample(count, count - 1, rng) / (count - 1)
    shares[0] = 1 / count
    return shares


def _resample(count: int, drawn: int, rng: np.random.Generator) -> FloatArray:
    """How often each of `count` is among `drawn` in each resample, (1 + RESAMPLES, count).

    In row 0, each is there once.
    """
    counts = rng.multinomial(drawn, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), counts])


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


def _summarise(
    name: str,
    cell: Cell,
    values: Mapping[Cell, Mapping[str, FloatArray]],
    shares: FloatArray,
    reference: str,
) -> Score:
    """The score `name` of a cell; `shares` (R, S) are the weights of the seeds in each resample."""
    own = values[cell][name]
    means = np.einsum("rs,sr->r", shares, own)
    gain: Interval | None = None
    detectable: float | None = None
    if cell.arm != reference:
        other = values[Cell(reference, cell.backbone, cell.label_fraction)][name]
        sign = -1 if name == ORGAN_SCORE else 1
        gains = sign * (means - np.einsum("rs,sr->r", shares, other))
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
