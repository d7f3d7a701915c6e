"""The page of a pretraining run, `RUN/report.html`: only what is in the tables of the run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from markupsafe import Markup, escape

from voco_data.qc import Section, render_page
from voco_data.storage import atomic
from voco_models.evaluation import Line, line_plot
from voco_models.training import HEALTH, PROBES, checkpoint, read_history

PAGE = "report.html"
LEAD = "A backbone pretrained without labels (2D-VoCo). Research use only."
Rows = Sequence[Mapping[str, float]]

Chart: TypeAlias = tuple[str, str, dict[str, str], str]
"""Title, table, its columns with their names, and the label of the axis."""

CHARTS: tuple[Chart, ...] = (
    ("Losses", "history",
     {"loss": "all", "intra": "intra", "inter": "inter", "reg": "reg"}, "loss"),
    ("Intra loss", "history",
     {"intra": "student and teacher", "intra_student": "student on both sides"}, "loss"),
    ("Held-out patients: intra loss", "probes",
     {"intra": "student and teacher", "intra_student": "student on both sides"}, "loss"),
    ("Held-out patients: effective rank", "probes",
     {"student_rank": "student", "teacher_rank": "teacher"}, "rank"),
    ("Held-out patients: error of the place of a crop (nearest neighbours)", "probes",
     {"student_place_knn": "student", "teacher_place_knn": "teacher"}, "px"),
    ("Held-out patients: error of the place of a crop (ridge)", "probes",
     {"student_place_ridge": "student", "teacher_place_ridge": "teacher"}, "px"),
    ("Effective rank: student", "history", {"rank": "student"}, "rank"),
    ("Effective rank: teacher", "health", {"teacher_rank": "teacher"}, "rank"),
    ("Correlation of cosines with targets", "health", {"correlation": "training batches"},
     "correlation"),
    ("Movement of the weights", "health",
     {"movement_backbone": "backbone", "movement_projector": "projector"}, "fraction of the norm"),
    ("Learning rate", "history", {"lr": "learning rate"}, "learning rate"),
    ("Speed", "health", {"crops_per_second": "slice images of crops per second"}, "crops/s"),
    ("Waiting for data", "health", {"data_wait": "fraction of the time"}, "fraction"),
)  # fmt: skip


def write_page(run: Path) -> dict[str, Rows]:
    """Write the page from the tables of `run`; returns the tables by name."""
    tables: dict[str, Rows] = {
        "history": read_history(run),
        "health": read_history(run, HEALTH),
        "probes": read_history(run, PROBES),
    }
    description = checkpoint.read_run(run)
    sections = [
        Section("Alarms", _render_alarms(description.get("alarms", []))),
        *(
            Section(title, _render_chart(title, tables[table], drawn, label))
            for title, table, columns, label in (*CHARTS, *_charts_of_other_probes(tables))
            for drawn in [_columns_with_points(tables[table], columns)]
            if drawn
        ),
        Section("The run", _render_facts(description, tables["history"])),
    ]
    atomic.write_text(run / PAGE, render_page("voco pretrain", sections, lead=LEAD))
    return tables


def _charts_of_other_probes(tables: Mapping[str, Rows]) -> Iterator[Chart]:
    """A chart for each column of the probes that has none in `CHARTS`."""
    known = {"step"}.union(*(columns for _, table, columns, _ in CHARTS if table == "probes"))
    for column in sorted({name for row in tables["probes"] for name in row} - known):
        yield f"Probe: {column}", "probes", {column: column}, column


def _columns_with_points(rows: Rows, columns: Mapping[str, str]) -> dict[str, str]:
    """The columns that all rows have, and that have a value which can be drawn."""
    return {
        column: name
        for column, name in columns.items()
        if all(column in row for row in rows) and any(math.isfinite(row[column]) for row in rows)
    }


def _render_alarms(alarms: Sequence[str]) -> Markup:
    if not alarms:
        return Markup("<p>None so far.</p>")
    items = Markup("").join(Markup("<li>{}</li>").format(alarm) for alarm in alarms)
    return Markup("<ul>{}</ul>").format(items)


def _render_chart(title: str, rows: Rows, columns: Mapping[str, str], label: str) -> Markup:
    steps = [row["step"] for row in rows]
    lines = [Line(name, steps, [row[c] for row in rows]) for c, name in columns.items()]
    chart = line_plot(lines, title=title, x_label="step", y_label=label)
    return Markup("<figure>{}</figure>").format(Markup(chart))


def _describe_test_patients(provenance: Mapping[str, Any]) -> str:
    """Whether test patients of the split were learnt from."""
    if provenance.get("split") is None:
        return "no split was given"
    selection = provenance.get("selection") or {}
    if selection.get("transductive"):
        return f"learnt from: the run is transductive (split {provenance['split']})"
    count = (selection.get("left_out") or {}).get("test", 0)
    return f"left out, {count} volumes (split {provenance['split']})"


def _render_facts(description: Mapping[str, Any], history: Rows) -> Markup:
    provenance = description["provenance"]
    recipe = provenance["recipe"]
    stores = ", ".join(f"{s['name']} ({s['volumes']} volumes)" for s in provenance["stores"])
    facts = {
        "Recipe": description["recipe_name"],
        "Backbone": recipe["backbone"],
        "First weights": provenance["initial_weights"]["name"],
        "Stores": stores,
        "Steps": f"{int(history[-1]['step']) if history else 0} of {recipe['fit']['total_steps']}",
        "Volumes per step": recipe["batch_size"] * recipe["fit"].get("accumulate", 1),
        "Test patients": _describe_test_patients(provenance),
        "Notes": "; ".join(description["notes"]) or "none",
        "voco": provenance["voco"] or "not installed",
        "Commit": provenance["commit"] or "unknown",
        "torch, timm": f"{provenance['torch']}, {provenance['timm']}",
    }
    rows = Markup("").join(
        Markup("<tr><th>{}</th><td>{}</td></tr>").format(name, escape(value))
        for name, value in facts.items()
    )
    return Markup("<table>{}</table>").format(rows)
