"""The tables of an experiment: the paper's Table 1, differences, scores by labels and by run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from voco_models.evaluation import ORGAN_SCORE, Interval, report
from voco_models.experiments.comparison import (
    MEAN_AP,
    PRECISION,
    RECALL,
    SCORES,
    Cell,
    Comparison,
    Score,
)
from voco_models.experiments.jobs import FinetuneJob

LABELS = {
    ORGAN_SCORE: "RSNA score ↓",
    MEAN_AP: "mAP (%) ↑",
    PRECISION: "Precision (%) ↑",
    RECALL: "Recall (%) ↑",
}
PAPER = "paper, RATIC"
"""Origin of the paper's rows. They are of another data set than ours."""

Row = dict[str, str]
"""Texts by column."""


def table_1(comparison: Comparison) -> list[Row]:
    """Ours with the most labels, then the paper's: mean and standard deviation over the seeds."""
    most = max(cell.label_fraction for cell in comparison.scores)
    rows = [
        {"Origin": "ours", "Backbone": cell.backbone, "Setting": cell.arm}
        | {LABELS[name]: _mean_and_sd(name, scores[name]) for name in SCORES}
        for cell, scores in comparison.scores.items()
        if cell.label_fraction == most
    ]
    for paper in report.PAPER_TABLE_1:
        values = (f"{paper.rsna:.4f}", paper.mean_ap, paper.precision, paper.recall)
        rows.append(
            {"Origin": PAPER, "Backbone": paper.backbone, "Setting": paper.setting}
            | {
                LABELS[name]: value if isinstance(value, str) else f"{value:.2f}"
                for name, value in zip(SCORES, values, strict=True)
            }
        )
    return rows


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
    jobs: Sequence[FinetuneJob], comparison: Comparison, states: Mapping[str, str]
) -> pd.DataFrame:
    """One line for each run: its place, its digest, whether it was reused, its scores."""
    lines = []
    for job in jobs:
        scores = comparison.scores[Cell(job.arm, job.backbone, job.label_fraction)]
        position = comparison.seeds.index(job.seed)
        lines.append(
            {
                "arm": job.arm,
                "backbone": job.backbone,
                "label_fraction": job.label_fraction,
                "seed": job.seed,
                "digest": job.digest,
                "pretraining": "" if job.pretraining is None else job.pretraining.digest,
                "state": states[job.digest],
            }
            | {name: scores[name].by_seed[position] for name in SCORES}
        )
    return pd.DataFrame(lines)


def format_table(rows: Sequence[Row]) -> str:
    """A table as Markdown, with columns of equal width."""
    if not rows:
        return ""
    columns = list(rows[0])
    widths = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}

    def line(values: Mapping[str, str]) -> str:
        return "| " + " | ".join(values[c].ljust(widths[c]) for c in columns) + " |"

    rule = "|" + "|".join("-" * (widths[c] + 2) for c in columns) + "|"
    return "\n".join([line({c: c for c in columns}), rule, *map(line, rows)])


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
