"""Scores of an experiment of 3D-to-2D networks: by arm and masks, and paired differences.

Every run is scored on the same series of the test patients, and there on the organs that the mask
knows and that are in the scan. Scores of an organ are means over its patients; the mean over the
organs weighs each of them equally:

    dice            Dice at a probability of 0.5, the mean of both planes
    hd95_mm         95th percentile of the Hausdorff distance, the mean of both planes
    boundary_mm     median distance of the faces of boxes from the true ones
    not_found       share of the organs of which the maps give no box

What is not found counts as if it were as far off as it can be: the diagonal of a map that is empty
where the other is not, the length of the volume for each face of a box that is missing. Else an arm
would gain by missing what is hard. See `resampling` for intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_data.errors import InputError
from voco_models.evaluation import FloatArray
from voco_models.experiments.projections.jobs import ProjectionTrial
from voco_models.experiments.resampling import (
    SEED,
    Score,
    patient_counts,
    seed_shares,
    summarise,
)
from voco_models.stages import read_projection_scores

DICE, HD95, BOUNDARY, NOT_FOUND = "dice", "hd95_mm", "boundary_mm", "not_found"
SCORES = (DICE, HD95, BOUNDARY, NOT_FOUND)
"""The first is better if it is higher, the others if lower."""
PLANES = ("coronal", "sagittal")
ALL = "all"
"""In place of an organ: the mean over the organs, or all faces and all boxes."""

ROWS_PER_STEP = 256
"""Resamples of which medians are computed at a time: it bounds the memory."""

CellScores = dict[tuple[str, str], Score]
"""By name of the score and organ; `ALL` for the organs together."""
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the tables: its runs differ in the seed alone."""

    arm: str
    masks: int


@dataclass(frozen=True, slots=True)
class ProjectionComparison:
    """All scores of an experiment."""

    scores: dict[Cell, CellScores]
    organs: tuple[str, ...]
    """Organs that are scored, sorted."""
    reference: str
    seeds: tuple[int, ...]
    test_patients: int
    test_series: int


def compare_projections(trials: Sequence[ProjectionTrial], reference: str) -> ProjectionComparison:
    """Score the finished runs of all trials.

    Raises InputError if runs were scored on different series or organs.
    """
    outcomes = {trial: _read_outcome(trial) for trial in trials}
    first = _check_same_series(outcomes)
    cells: dict[Cell, list[ProjectionTrial]] = {}
    for trial in trials:
        cells.setdefault(Cell(trial.arm, trial.masks), []).append(trial)
    seeds = tuple(dict.fromkeys(trial.seed for trial in trials))
    rng = np.random.default_rng(SEED)
    counts = patient_counts(first.n_patients, rng)
    shares = seed_shares(len(seeds), rng)
    values = {
        cell: _stack([score_outcome(outcomes[trial], counts) for trial in own])
        for cell, own in cells.items()
    }
    return ProjectionComparison(
        scores={
            cell: {
                key: summarise(
                    own[key],
                    None if cell.arm == reference else values[replace(cell, arm=reference)][key],
                    shares,
                    lower_is_better=key[0] != DICE,
                )
                for key in own
            }
            for cell, own in values.items()
        },
        organs=first.organs,
        reference=reference,
        seeds=seeds,
        test_patients=first.n_patients,
        test_series=first.lines["series_uid"].nunique(),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The scores of a run for N test patients, O organs and F faces."""

    lines: pd.DataFrame
    """`patient_id`, `series_uid` and `organ` of what is scored, sorted."""
    organs: tuple[str, ...]
    n_patients: int
    dice: FloatArray
    """(N, O): the mean over planes and series; NaN if the patient's masks have no such organ."""
    hd95_mm: FloatArray
    """(N, O): the same."""
    boxes: FloatArray
    """(N, O): series with the organ."""
    missed: FloatArray
    """(N, O): those of them in which it was not found."""
    face_mm: FloatArray
    """(F,): how far each face is off."""
    face_patient: IntArray
    """(F,): the patient of each, 0 to N - 1."""
    face_organ: IntArray
    """(F,): the organ of each, 0 to O - 1."""


def make_outcome(organ_lines: pd.DataFrame, face_lines: pd.DataFrame) -> Outcome:
    """The outcome of a run from its two tables, see `voco_models.stages.projection_scores`."""
    lines = organ_lines[organ_lines["has_extent"]]
    lines = lines.sort_values(["patient_id", "series_uid", "organ"], ignore_index=True)
    patients, organs = (pd.Index(sorted(set(lines[name]))) for name in ("patient_id", "organ"))
    dice = lines[[f"dice_{plane}" for plane in PLANES]].mean(axis=1)
    hd95 = np.mean([_finite_hd95(lines, plane) for plane in PLANES], axis=0)
    by_organ = [lines["patient_id"], lines["organ"]]

    def by_patient(values: pd.Series, how: str) -> FloatArray:
        table = values.groupby(by_organ).agg(how).unstack()
        filled: FloatArray = table.reindex(index=patients, columns=organs).to_numpy(np.float64)
        return filled

    missed = (~lines["is_found"]).astype(np.float64)
    errors = face_lines["error_mm"].abs().fillna(face_lines["worst_mm"])
    return Outcome(
        lines=lines[["patient_id", "series_uid", "organ"]],
        organs=tuple(organs),
        n_patients=len(patients),
        dice=by_patient(dice, "mean"),
        hd95_mm=by_patient(pd.Series(hd95, lines.index), "mean"),
        boxes=np.nan_to_num(by_patient(missed, "count")),
        missed=np.nan_to_num(by_patient(missed, "sum")),
        face_mm=errors.to_numpy(np.float64),
        face_patient=patients.get_indexer(face_lines["patient_id"]),
        face_organ=organs.get_indexer(face_lines["organ"]),
    )


def _finite_hd95(lines: pd.DataFrame, plane: str) -> FloatArray:
    """HD95 of a plane, with the diagonal of the map in place of infinity."""
    distances = lines[f"hd95_{plane}_mm"].to_numpy(np.float64)
    return np.where(np.isinf(distances), lines[f"worst_{plane}_mm"], distances)


def _read_outcome(trial: ProjectionTrial) -> Outcome:
    scores = read_projection_scores(trial.job.folder)
    return make_outcome(scores.organs, scores.faces)


def _check_same_series(outcomes: Mapping[ProjectionTrial, Outcome]) -> Outcome:
    """The first outcome. Raises InputError if not all runs were scored on the same series."""
    (trial, first), *others = outcomes.items()
    for other, outcome in others:
        if outcome.organs != first.organs or not outcome.lines.equals(first.lines):
            raise InputError(
                f"{other.name}: scored on other series or organs than {trial.name}; remove "
                f"{other.job.folder}, so that the run is made again"
            )
    return first


def score_outcome(outcome: Outcome, counts: FloatArray) -> dict[tuple[str, str], FloatArray]:
    """Scores (R,) by name and organ for counts (R, N) of the patients in R resamples."""
    scores: dict[tuple[str, str], FloatArray] = {}
    for name, values in ((DICE, outcome.dice), (HD95, outcome.hd95_mm)):
        known = np.isfinite(values)
        means = _ratio(counts @ np.where(known, values, 0.0), counts @ known.astype(np.float64))
        scores[name, ALL] = means.mean(axis=1)  # NaN if a resample has no patient with an organ
        scores |= {(name, organ): means[:, i] for i, organ in enumerate(outcome.organs)}
    missed, boxes = counts @ outcome.missed, counts @ outcome.boxes
    scores[NOT_FOUND, ALL] = _ratio(missed.sum(axis=1), boxes.sum(axis=1))
    shares = _ratio(missed, boxes)
    scores |= {(NOT_FOUND, organ): shares[:, i] for i, organ in enumerate(outcome.organs)}
    scores[BOUNDARY, ALL] = weighted_medians(outcome.face_mm, counts, outcome.face_patient)
    for i, organ in enumerate(outcome.organs):
        own = outcome.face_organ == i
        scores[BOUNDARY, organ] = weighted_medians(
            outcome.face_mm[own], counts, outcome.face_patient[own]
        )
    return scores


def weighted_medians(values: FloatArray, counts: FloatArray, patients: IntArray) -> FloatArray:
    """The median (R,) of `values` (F,), each as often as its patient is counted in `counts` (R, N).

    `patients` (F,) are 0 to N - 1. NaN where nothing is counted.
    """
    medians = np.full(len(counts), np.nan)
    if not len(values):
        return medians
    order = np.argsort(values, kind="stable")
    values, patients = values[order], patients[order]
    for start in range(0, len(counts), ROWS_PER_STEP):
        part = slice(start, start + ROWS_PER_STEP)
        sums = counts[part][:, patients].cumsum(axis=1)
        total = sums[:, -1]
        # Of n values in order, the median is the mean of those at (n - 1) / 2, rounded both ways.
        middle = [
            values[(sums > np.floor(place)[:, None]).argmax(axis=1)]
            for place in ((total - 1) / 2, total / 2)
        ]
        medians[part] = np.where(total > 0, (middle[0] + middle[1]) / 2, np.nan)
    return medians


def _ratio(parts: FloatArray, wholes: FloatArray) -> FloatArray:
    """`parts` / `wholes`; NaN where a whole is 0."""
    found: FloatArray = np.full(wholes.shape, np.nan)
    np.divide(parts, wholes, out=found, where=wholes > 0)
    return found


def _stack(
    by_seed: Sequence[Mapping[tuple[str, str], FloatArray]],
) -> dict[tuple[str, str], FloatArray]:
    """Scores (S, R) of S seeds by name and organ."""
    return {key: np.stack([scores[key] for scores in by_seed]) for key in by_seed[0]}
