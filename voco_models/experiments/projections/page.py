"""The page of an experiment of 3D-to-2D networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from voco_data.qc import Section, render_page
from voco_models.evaluation import Interval, difference_plot
from voco_models.experiments.page_parts import (
    render_curves,
    render_design,
    render_runs,
    render_table,
)
from voco_models.experiments.projections.comparison import (
    ALL,
    BOUNDARY,
    DICE,
    SCORES,
    ProjectionComparison,
)
from voco_models.experiments.projections.pictures import Picture
from voco_models.experiments.projections.tables import DIFFERENCES, masks_text
from voco_models.experiments.results import Row

LEAD = (
    "3D-to-2D networks that differ in how they were trained before, masks and seed. Research use "
    "only."
)
_DESIGN = Markup(
    "<p>Scores are of {} series. Organs that a mask does not mark, or that are not in the scan, "
    "are not scored. What an arm does not find counts as far off as it can be: the diagonal of the "
    "map (HD95), the length of the volume (boundary error).</p>"
)
_PICTURES = Markup(
    "<p>Areas are what is predicted, lines the mask. The patients are those whose masks know the "
    "most organs, chosen before anything was predicted. Maps are those of seed {} with the masks "
    "of {}.</p>"
)


def render_projection_report(
    comparison: ProjectionComparison,
    named: Mapping[str, Sequence[Row]],
    runs: pd.DataFrame,
    pictures: Sequence[Picture],
) -> str:
    """The page: curves over the masks, the tables, differences, maps, and the runs."""
    masks = sorted({cell.masks for cell in comparison.scores})
    design = render_design(comparison.test_patients, len(comparison.seeds))
    sections = [
        Section("What was compared", design + _DESIGN.format(comparison.test_series)),
    ]
    if len(masks) > 1:
        sections.append(Section("By number of masks", _render_all_curves(comparison)))
    for name, rows in named.items():
        if rows:
            chart = _render_gains(comparison) if name == DIFFERENCES else Markup("")
            sections.append(Section(name, chart + render_table(rows)))
    figures = [
        Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(
            Markup(picture.svg), picture.title
        )
        for picture in pictures
    ]
    text = _PICTURES.format(comparison.seeds[0], masks_text(masks[0]))
    sections.append(Section("Maps", text + Markup("").join(figures)))
    kept = ["arm", "masks", "seed", "run", "pretext", "steps", "state", *SCORES]
    sections.append(Section("Runs", render_runs(runs[kept])))
    return render_page("voco experiment", sections, lead=LEAD)


def _render_all_curves(comparison: ProjectionComparison) -> Markup:
    charts = []
    for name, label, better in (
        (DICE, "Dice", "Higher"),
        (BOUNDARY, "boundary error, mm", "Lower"),
    ):
        curves: dict[str, list[tuple[int, Interval]]] = {}
        for cell, scores in comparison.scores.items():
            curves.setdefault(cell.arm, []).append((cell.masks, scores[name, ALL].mean))
        charts.append(
            render_curves(
                curves,
                title=f"{label} by masks",
                x_label="patients with masks to learn from",
                y_label=label,
                caption=f"{better} is better. Lines are means over the seeds, with intervals.",
            )
        )
    return Markup("").join(charts)


def _render_gains(comparison: ProjectionComparison) -> Markup:
    """The gains of Dice with their intervals."""
    rows = [
        (f"{cell.arm}, {masks_text(cell.masks)}", gain.value, gain.low, gain.high)
        for cell, scores in sorted(comparison.scores.items(), key=lambda item: item[0].masks)
        if (gain := scores[DICE, ALL].gain) is not None
    ]
    chart = difference_plot(
        rows,
        title="Differences of Dice",
        x_label=f"better than {comparison.reference} by, 95 % interval",
    )
    caption = "Of Dice. An interval that contains 0 shows no difference."
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(Markup(chart), caption)
