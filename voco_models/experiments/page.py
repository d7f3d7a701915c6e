"""The page of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from voco_data.qc import Section, render_page
from voco_models.evaluation import ORGAN_SCORE, Interval
from voco_models.experiments.comparison import SCORES, Comparison
from voco_models.experiments.page_parts import (
    render_curves,
    render_design,
    render_runs,
    render_table,
)
from voco_models.experiments.results import Row

LEAD = (
    "Classifiers that differ in their first weights, backbone, labels and seed. Research use only."
)


def render_report(
    comparison: Comparison, named: Mapping[str, Sequence[Row]], runs: pd.DataFrame
) -> str:
    """The page: the tables, the curve over fractions of the labels, and the runs."""
    design = render_design(comparison.test_patients, len(comparison.seeds))
    sections = [Section("What was compared", design)]
    sections += [Section(name, render_table(rows)) for name, rows in named.items() if rows]
    fractions = {cell.label_fraction for cell in comparison.scores}
    if len(fractions) > 1:
        sections.append(Section("Label efficiency", _render_curve(comparison)))
    shown = runs.drop(columns=[name for name in SCORES if name != ORGAN_SCORE])
    sections.append(Section("Runs", render_runs(shown)))
    return render_page("voco experiment", sections, lead=LEAD)


def _render_curve(comparison: Comparison) -> Markup:
    """The RSNA score by the number of labelled patients, a line for each arm and backbone."""
    curves: dict[str, list[tuple[int, Interval]]] = {}
    for cell, scores in comparison.scores.items():
        point = comparison.labelled[cell], scores[ORGAN_SCORE].mean
        curves.setdefault(f"{cell.arm}, {cell.backbone}", []).append(point)
    return render_curves(
        curves,
        title="Label efficiency",
        x_label="labelled patients",
        y_label="RSNA score",
        caption="Lower is better. Lines are means over the seeds, with their intervals.",
    )
