"""The report of the localiser's demo: the recipe, the boxes, and the volumes cropped to them.

It lies in the folder of the run, beside the pages that it links to.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from flows.demo_parts import render_table
from flows.demo_recipes import LocaliserRecipe
from voco_data.qc import ENVIRONMENT, Section, ingest_sections, render_page
from voco_data.storage import open_storage
from voco_models.evaluation import Line, line_plot
from voco_models.training import read_history

RECIPE: Final = ENVIRONMENT.from_string("""
<p>This cohort is made up: bodies of five kinds are drawn from a seed, and written in the layout of
RATIC. It shows that all stages work. Its errors say nothing about patients. Everything below is of
one run with one seed.</p>
<table>
{% for name, value in rows.items() %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
""")
TRAINING: Final = ENVIRONMENT.from_string("""
<figure>
{{ chart }}
<figcaption>Two networks, one for each plane, learn from the masks of {{ masks }} patients. The loss
is (batch Dice + binary cross-entropy) / 2.</figcaption>
</figure>
""")
BOXES: Final = ENVIRONMENT.from_string("""
<p>Boxes of {{ scores.patients }} patients with masks from whom the run has not learnt. An error is
the distance of a face of the box from the true one. Voxels are counted in the masks at full
resolution, with a margin of {{ scores.margin_mm }} mm. The mean box sees no image: it is the mean
place of an organ in the {{ scores.mean_box }} learnt from.</p>
{{ table }}
<p>The boxes that are least certain are on <a href="{{ page }}">a page of their own</a>, with scan
and maps.</p>
""")
VOLUMES: Final = ENVIRONMENT.from_string("""
<p>The archive was preprocessed once more, into volumes of the abdomen, with the boxes that were
found: <code>voco preprocess --boxes {{ boxes }}</code>. This is what came out:</p>
""")


def localiser_page(
    recipe: LocaliserRecipe, seed: int, run: Path, root: Path, ledger_path: Path, boxes: str
) -> str:
    """The page as text.

    `run` holds project, and the table `boxes` with its scores and page; `root` holds the stores;
    `ledger_path` is the ledger of preprocessing with these boxes.
    """
    settings = asdict(replace(recipe, seed=seed))
    sections = [
        Section("The recipe", RECIPE.render(rows=settings)),
        Section("Training", _render_training(run / "project", recipe.masks)),
        Section("Boxes", _render_boxes(run / boxes)),
        Section("Volumes in these boxes", VOLUMES.render(boxes=boxes)),
        *ingest_sections(ledger_path, open_storage(root)),
    ]
    lead = f"Organ boxes from few masks. Recipe {recipe.name}, seed {seed}."
    return render_page("voco demo localiser", sections, lead=lead)


def _render_training(run: Path, masks: int) -> str:
    rows = read_history(run)
    line = Line("loss", [row["step"] for row in rows], [row["loss"] for row in rows])
    chart = line_plot([line], title="Loss of the maps", x_label="step", y_label="loss")
    return TRAINING.render(chart=Markup(chart), masks=masks)


def _render_boxes(boxes: Path) -> str:
    scores = json.loads(boxes.with_name(f"{boxes.stem}-scores.json").read_text())
    rows = [
        {
            "Organ": row["organ"].replace("_", " "),
            "Median error, mm": _interval(row),
            "95th percentile, mm": _format(row["p95_mm"], ".1f"),
            "Faces not found": f"{row['missed']} of {row['faces']}",
            "Voxels kept": _format(row["kept"], ".2%"),
            "Mean box: median error, mm": _format(row["mean_box_median_mm"], ".1f"),
            "Mean box: voxels kept": _format(row["mean_box_kept"], ".1%"),
        }
        for row in scores["organs"]
    ]
    page = boxes.with_suffix(".html").name
    return BOXES.render(scores=scores, table=render_table(rows), page=page)


def _interval(row: dict[str, Any]) -> str:
    median, low, high = (
        _format(row[name], ".1f") for name in ("median_mm", "median_low_mm", "median_high_mm")
    )
    return f"{median} ({low} to {high})"


def _format(value: float | None, form: str) -> str:
    """A number, or a dash where nothing was found."""
    return "–" if value is None else format(value, form)
