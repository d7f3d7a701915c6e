"""The tables of an experiment of 3D-to-2D networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from voco_models.evaluation import Interval
from voco_models.experiments.projections.comparison import (
    ALL,
    BOUNDARY,
    DICE,
    HD95,
    NOT_FOUND,
    SCORES,
    Cell,
    CellScores,
    ProjectionComparison,
)
from voco_models.experiments.projections.jobs import ProjectionTrial
from voco_models.experiments.results import Row

LABELS = {
    DICE: "Dice ↑",
    HD95: "HD95 (mm) ↓",
    BOUNDARY: "Boundary error (mm) ↓",
    NOT_FOUND: "Organs not found (%) ↓",
}

DIFFERENCES = "Differences"
"""Title of the table of differences."""


def score_tables(comparison: ProjectionComparison) -> dict[str, list[Row]]:
    """A table of each score: arms x masks, mean over the seeds and interval."""
    arms = list(dict.fromkeys(cell.arm for cell in comparison.scores))
    masks = sorted({cell.masks for cell in comparison.scores})
    return {
        LABELS[name]: [
            {"Arm": arm}
            | {
                masks_text(count): format_interval(
                    name, comparison.scores[Cell(arm, count)][name, ALL].mean
                )
                for count in masks
            }
            for arm in arms
        ]
        for name in SCORES
    }


def organ_table(comparison: ProjectionComparison) -> list[Row]:
    """Every score of every organ, the mean over the seeds."""
    return [
        {"Masks": masks_text(cell.masks), "Arm": cell.arm, "Organ": organ.replace("_", " ")}
        | {LABELS[name]: format_number(name, scores[name, organ].mean.value) for name in SCORES}
        for cell, scores in _by_masks(comparison)
        for organ in comparison.organs
    ]


def difference_table(comparison: ProjectionComparison) -> list[Row]:
    """By how much each cell is better than the reference, and what could have been seen."""
    rows = []
    for cell, scores in _by_masks(comparison):
        for name in SCORES:
            score = scores[name, ALL]
            if score.gain is None or score.detectable is None:
                continue
            rows.append(
                {
                    "Masks": masks_text(cell.masks),
                    "Arm": cell.arm,
                    "Score": LABELS[name],
                    f"Better than {comparison.reference} by": format_interval(name, score.gain),
                    "Smallest difference to be seen": format_number(name, score.detectable),
                }
            )
    return rows


def runs_table(
    trials: Sequence[ProjectionTrial],
    comparison: ProjectionComparison,
    states: Mapping[ProjectionTrial, str],
) -> pd.DataFrame:
    """One line for each trial: its place, its runs, whether they were reused, its scores."""
    lines = []
    for trial in trials:
        scores = comparison.scores[Cell(trial.arm, trial.masks)]
        position = comparison.seeds.index(trial.seed)
        pretext = trial.job.pretext
        lines.append(
            {
                "arm": trial.arm,
                "masks": trial.masks,
                "seed": trial.seed,
                "run": trial.job.digest,
                "pretext": "" if pretext is None else pretext.digest,
                "steps": trial.job.steps,
                "state": states[trial],
            }
            | {name: scores[name, ALL].by_seed[position] for name in SCORES}
            | {
                f"{name}_{organ}": scores[name, organ].by_seed[position]
                for name in SCORES
                for organ in comparison.organs
            }
        )
    return pd.DataFrame(lines)


def masks_text(masks: int) -> str:
    """`5 patients`."""
    return f"{masks} {'patient' if masks == 1 else 'patients'}"


def format_interval(name: str, interval: Interval) -> str:
    """The value of a score and its interval."""
    low, high = format_number(name, interval.low), format_number(name, interval.high)
    return f"{format_number(name, interval.value)} ({low} to {high})"


def format_number(name: str, value: float) -> str:
    """Dice with three digits, mm with one, shares in percent; a dash if there is nothing."""
    if math.isnan(value):
        return "–"
    if name == DICE:
        return f"{value:z.3f}"
    return f"{100 * value:z.1f}" if name == NOT_FOUND else f"{value:z.1f}"


def _by_masks(comparison: ProjectionComparison) -> list[tuple[Cell, CellScores]]:
    return sorted(comparison.scores.items(), key=lambda item: item[0].masks)
