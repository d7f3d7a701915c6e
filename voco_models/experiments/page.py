"""The page of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from voco_data.qc import Section, render_page
from voco_models.evaluation import (
    CONFIDENCE_LEVEL,
    ORGAN_SCORE,
    POWER_FACTOR,
    RESAMPLES,
    Interval,
    Line,
    line_plot,
)
from voco_models.experiments.comparison import SCORES, Comparison
from voco_models.experiments.tables import Row

LEAD = (
    "Classifiers that differ in their first weights, backbone, labels and seed. Research use only."
)


def render_report(
    comparison: Comparison, named: Mapping[str, Sequence[Row]], runs: pd.DataFrame
) -> str:
    """The page: the tables, the curve over fractions of the labels, and the runs."""
    sections = [Section("What was compared", _render_design(comparison))]
    sections += [Section(name, _render_table(rows)) for name, rows in named.items() if rows]
    fractions = {cell.label_fraction for cell in comparison.scores}
    if len(fractions) > 1:
        sections.append(Section("Label efficiency", _render_curve(comparison)))
    shown = runs.drop(columns=[name for name in SCORES if name != ORGAN_SCORE])
    listed = [{str(c): _text(v) for c, v in line.items()} for line in shown.to_dict("records")]
    sections.append(Section("Runs", _render_table(listed)))
    return render_page("voco experiment", sections, lead=LEAD)


def _render_design(comparison: Comparison) -> Markup:
    seeds = len(comparison.seeds)
    return Markup(
        "<p>All runs were tested on the same {} patients. Means and deviations are over {} {}. "
        "Intervals are {:.0f} % percentile intervals over {} resamples of the test patients{}; "
        "those of differences are of paired values. The smallest difference to be seen is {} "
        "standard errors: a true difference of this size gives an interval without 0 in four of "
        "five experiments of this size. An interval that contains 0 shows no difference; it does "
        "not show that there is none.</p>"
    ).format(
        comparison.test_patients,
        seeds,
        "seed" if seeds == 1 else "seeds",
        100 * CONFIDENCE_LEVEL,
        RESAMPLES,
        "" if seeds == 1 else " and of the seeds",
        POWER_FACTOR,
    )


def _render_curve(comparison: Comparison) -> Markup:
    """The RSNA score by the number of labelled patients, a line for each arm and backbone."""
    curves: dict[tuple[str, str], list[tuple[int, Interval]]] = {}
    for cell, scores in comparison.scores.items():
        point = comparison.labelled[cell], scores[ORGAN_SCORE].mean
        curves.setdefault((cell.arm, cell.backbone), []).append(point)
    lines = []
    most = max(comparison.labelled.values())
    for number, ((arm, backbone), points) in enumerate(curves.items()):
        points.sort(key=lambda point: point[0])
        beside = 0.01 * most * number  # so that intervals do not cover one another
        lines.append(
            Line(
                f"{arm}, {backbone}",
                x=[count + beside for count, _ in points],
                y=[score.value for _, score in points],
                low=[score.low for _, score in points],
                high=[score.high for _, score in points],
            )
        )
    chart = line_plot(
        lines, title="Label efficiency", x_label="labelled patients", y_label="RSNA score"
    )
    caption = "Lower is better. Lines are means over the seeds, with their intervals."
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(Markup(chart), caption)


def _render_table(rows: Sequence[Mapping[str, str]]) -> Markup:
    head = Markup("").join(Markup("<th>{}</th>").format(column) for column in rows[0])
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(value) for value in row.values())
        )
        for row in rows
    )
    return Markup("<table><tr>{}</tr>{}</table>").format(head, body)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
