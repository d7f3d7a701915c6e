"""What the pages of all experiments have: tables, how to read intervals, curves over the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from voco_models.evaluation import (
    CONFIDENCE_LEVEL,
    POWER_FACTOR,
    RESAMPLES,
    Interval,
    Line,
    line_plot,
)

Points = Sequence[tuple[int, Interval]]
"""Numbers of labelled patients, and a score with each."""


def render_design(test_patients: int, seeds: int) -> Markup:
    """What was tested, and what the intervals and the smallest differences are."""
    return Markup(
        "<p>All runs were tested on the same {} patients. Means and deviations are over {} {}. "
        "Intervals are {:.0f} % percentile intervals over {} resamples of the test patients{}; "
        "those of differences are of paired values. The smallest difference to be seen is {} "
        "standard errors: a true difference of this size gives an interval without 0 in four of "
        "five experiments of this size. An interval that contains 0 shows no difference; it does "
        "not show that there is none.</p>"
    ).format(
        test_patients,
        seeds,
        "seed" if seeds == 1 else "seeds",
        100 * CONFIDENCE_LEVEL,
        RESAMPLES,
        "" if seeds == 1 else " and of the seeds",
        POWER_FACTOR,
    )


def render_curves(
    curves: Mapping[str, Points], *, title: str, x_label: str, y_label: str, caption: str
) -> Markup:
    """A score by the number of labelled patients, with intervals: a line for each name."""
    most = max(count for points in curves.values() for count, _ in points)
    lines = []
    for number, (name, points) in enumerate(curves.items()):
        ordered = sorted(points, key=lambda point: point[0])
        beside = 0.01 * most * number  # so that intervals do not cover one another
        lines.append(
            Line(
                name,
                x=[count + beside for count, _ in ordered],
                y=[score.value for _, score in ordered],
                low=[score.low for _, score in ordered],
                high=[score.high for _, score in ordered],
            )
        )
    chart = line_plot(lines, title=title, x_label=x_label, y_label=y_label)
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(Markup(chart), caption)


def render_table(rows: Sequence[Mapping[str, str]]) -> Markup:
    """A table as HTML."""
    head = Markup("").join(Markup("<th>{}</th>").format(column) for column in rows[0])
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(value) for value in row.values())
        )
        for row in rows
    )
    return Markup('<div class="wide"><table><tr>{}</tr>{}</table></div>').format(head, body)


def render_runs(runs: pd.DataFrame) -> Markup:
    """The table of runs as HTML, with four digits of each number."""
    return render_table(
        [{str(c): _text(v) for c, v in line.items()} for line in runs.to_dict("records")]
    )


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
