"""The tables of an experiment: the paper's Table 1, differences, scores by labels and by run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from voco_models.evaluation import ORGAN_SCORE, Interval, report
from voco_models.experiments.comparison import (
    MEAN_AP,
    PRECISION,
    RECALL,
    SCORES,
    Cell,
    Comparison,
)
from voco_models.experiments.jobs import Trial
from voco_models.experiments.resampling import Score
from voco_models.experiments.results import Row
from voco_models.training import checkpoint

LABELS = {
    ORGAN_SCORE: "RSNA score ↓",
    MEAN_AP: "mAP (%) ↑",
    PRECISION: "Precision (%) ↑",
    RECALL: "Recall (%) ↑",
}
PAPER = "paper, RATIC"
"""Origin of the paper's rows. They are of another data set than ours."""

PAPER_TABLE_2 = (
    (
        "multi-organ",
        report.PaperRow("EfficientNetV2-T", "without 2D-VoCo", 0.4133, 59.47, 60.84, 49.37),
    ),
    (
        "single-organ",
        report.PaperRow("EfficientNetV2-T", "without 2D-VoCo", 0.3938, 58.30, 54.28, 52.71),
    ),
    ("multi-organ", report.PaperRow("EfficientNetV2-T", "2D-VoCo", 0.3777, 60.98, 66.71, 53.90)),
    ("single-organ", report.PaperRow("EfficientNetV2-T", "2D-VoCo", 0.3966, 58.69, 56.96, 53.80)),
)
"""Chiu and Chen, arXiv 2601.14593, Table 2: task and scores. Its 2D-VoCo is the setting with extra
unlabelled data, in the text of the paper."""


def table_1(comparison: Comparison) -> list[Row]:
    """Ours with the most labels, then the paper's: mean and standard deviation over the seeds."""
    most = max(cell.label_fraction for cell in comparison.scores)
    rows = [
        {"Origin": "ours", "Backbone": cell.backbone, "Setting": cell.arm}
        | {LABELS[name]: _mean_and_sd(name, scores[name]) for name in SCORES}
        for cell, scores in comparison.scores.items()
        if cell.label_fraction == most
    ]
    return rows + [_paper_row(row) for row in report.PAPER_TABLE_1]


def table_1_of_run(run: Path, origin: str, setting: str) -> list[Row]:
    """The scores of one evaluated run, then the paper's rows. It has one seed and no deviation.

    `origin` and `setting` are texts of its row. Raises InputError if the run was not evaluated.
    """
    scores = report.read_results(run)["scores"]
    backbone = str(checkpoint.read_run(run)["recipe"]["backbone"])
    row = {"Origin": origin, "Backbone": backbone, "Setting": setting} | {
        LABELS[name]: _number(name, scores[name]["value"]) for name in SCORES
    }
    return [row, *(_paper_row(paper) for paper in report.PAPER_TABLE_1)]


def table_2(comparison: Comparison, single_organ: Collection[str]) -> list[Row]:
    """One classifier for all organs against one for each, then the paper's; empty without either.

    `single_organ` are the arms with a classifier for each organ.
    """
    if not single_organ:
        return []
    rows = table_1(comparison)[: -len(report.PAPER_TABLE_1)]
    tasks = {True: "single-organ", False: "multi-organ"}
    ours = [row | {"Task": tasks[row["Setting"] in single_organ]} for row in rows]
    papers = [_paper_row(row) | {"Task": task} for task, row in PAPER_TABLE_2]
    order = ["Origin", "Backbone", "Setting", "Task", *LABELS.values()]
    return [{column: row[column] for column in order} for row in (*ours, *papers)]


def _paper_row(paper: report.PaperRow) -> Row:
    values = (f"{paper.mean_ap:.2f}", f"{paper.precision:.2f}", f"{paper.recall:.2f}")
    return {"Origin": PAPER, "Backbone": paper.backbone, "Setting": paper.setting} | dict(
        zip(LABELS.values(), (f"{paper.rsna:.4f}", *values), strict=True)
    )


def differences(comparison: Comparison) -> list[Row]:
    """By how much each cell is better than the reference, and what could have been seen."""
    rows = []
    for cell, scores in comparison.scores.items():
        for name in SCORES:
            score = scores[name]
            if score.gain is None or score.detectable is None:
                continue
            rows.append(
                {
                    "Arm": cell.arm,
                    "Backbone": cell.backbone,
                    "Labels": _share(cell, comparison),
                    "Score": LABELS[name],
                    f"Better than {comparison.reference} by": _interval(name, score.gain),
                    "Smallest difference to be seen": _number(name, score.detectable),
                }
            )
    return rows


def label_curve(comparison: Comparison) -> list[Row]:
    """The RSNA score of every cell, by fraction of the labels."""
    return [
        {
            "Labels": _share(cell, comparison),
            "Arm": cell.arm,
            "Backbone": cell.backbone,
            LABELS[ORGAN_SCORE]: _interval(ORGAN_SCORE, scores[ORGAN_SCORE].mean),
        }
        for cell, scores in sorted(
            comparison.scores.items(), key=lambda item: item[0].label_fraction
        )
    ]


def runs_table(
    trials: Sequence[Trial], comparison: Comparison, states: Mapping[Trial, str]
) -> pd.DataFrame:
    """One line for each trial: its place, its runs, whether they were reused, its scores."""
    lines = []
    for trial in trials:
        scores = comparison.scores[Cell(trial.arm, trial.backbone, trial.label_fraction)]
        position = comparison.seeds.index(trial.seed)
        pretraining = trial.jobs[0].pretraining
        lines.append(
            {
                "arm": trial.arm,
                "backbone": trial.backbone,
                "label_fraction": trial.label_fraction,
                "seed": trial.seed,
                "runs": trial.digests,
                "pretraining": "" if pretraining is None else pretraining.digest,
                "state": states[trial],
            }
            | {name: scores[name].by_seed[position] for name in SCORES}
        )
    return pd.DataFrame(lines)


def _share(cell: Cell, comparison: Comparison) -> str:
    return f"{100 * cell.label_fraction:g} % ({comparison.labelled[cell]} patients)"


def _number(name: str, value: float) -> str:
    """The RSNA score with four digits, the others in percent."""
    return f"{value:.4f}" if name == ORGAN_SCORE else f"{100 * value:.2f}"


def _mean_and_sd(name: str, score: Score) -> str:
    mean = _number(name, score.mean.value)
    return mean if score.sd is None else f"{mean} ± {_number(name, score.sd)}"


def _interval(name: str, interval: Interval) -> str:
    low, high = _number(name, interval.low), _number(name, interval.high)
    return f"{_number(name, interval.value)} ({low} to {high})"
