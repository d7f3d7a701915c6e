"""The page of a comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voco_data.qc import Section
from voco_models.evaluation.markup import render
from voco_models.evaluation.metrics import ORGAN_SCORE
from voco_models.evaluation.plots import difference_plot

ARROWS = {"lower": "↓", "higher": "↑"}
VERDICTS = {
    "better": "first is better",
    "worse": "second is better",
    "not shown": "not shown",
}
OVER_ORGANS = "All organs"
LOSS = "weighted log loss"
_MEASURES = {
    "auroc": "AUROC",
    "ece": "ECE",
    "brier": "Brier score",
    "precision/argmax": "macro precision, most probable class",
    "precision/thresholds": "macro precision, thresholds",
    "recall/argmax": "macro recall, most probable class",
    "recall/thresholds": "macro recall, thresholds",
    "mean_average_precision": "mAP",
}


def make_lead(results: Mapping[str, Any]) -> str:
    """The first line of the page."""
    return (
        f"Two fine-tuning runs on {results['patients']} test patients that neither was trained on. "
        "Research use only."
    )


def make_sections(results: Mapping[str, Any]) -> list[Section]:
    """The sections of the page, from the values of `comparison.json`."""
    tables: dict[str, list[dict[str, str]]] = {}
    for name, difference in results["differences"].items():
        part, label = split_name(name)
        tables.setdefault(part, []).append(_make_row(label, difference))
    return [
        Section(
            "The runs",
            render("comparison_runs.html", results=results, sets=results["test_sets"]),
        ),
        Section("Differences of the weighted log losses", _plot_losses(results)),
        *(
            Section(part, render("comparison.html", rows=rows, results=results))
            for part, rows in tables.items()
        ),
        Section("How to read this", render("comparison_notes.html", results=results)),
    ]


def split_name(name: str) -> tuple[str, str]:
    """Heading and label of a score: `liver/auroc/low` is ("Liver", "AUROC low")."""
    group, _, measure = name.partition("/")
    if group == "all" or group.startswith("rsna_") or group in _MEASURES:
        return OVER_ORGANS, _MEASURES.get(measure or group, group)
    if not measure:
        return group.capitalize(), LOSS
    if measure in _MEASURES:
        return group.capitalize(), _MEASURES[measure]
    kind, _, grade = measure.partition("/")
    return group.capitalize(), f"{_MEASURES[kind]} {grade}"


def _plot_losses(results: Mapping[str, Any]) -> str:
    """The losses of the organs and their mean, with intervals."""
    losses = {n: d for n, d in results["differences"].items() if split_name(n)[1] == LOSS}
    rows = [
        (name, d["difference"]["value"], d["difference"]["low"], d["difference"]["high"])
        for name, d in [(ORGAN_SCORE, results["differences"][ORGAN_SCORE]), *losses.items()]
    ]
    label = "first less second, 95 % interval; below 0 the first is better"
    return difference_plot(rows, title="Differences of the weighted log losses", x_label=label)


def _make_row(label: str, difference: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": f"{label} {ARROWS[difference['better']]}",
        "first": f"{difference['first']:.3f}",
        "second": f"{difference['second']:.3f}",
        "difference": f"{difference['difference']['value']:+.3f}",
        "interval": "{low:+.3f} to {high:+.3f}".format(**difference["difference"]),
        "smallest": f"{difference['smallest_difference']:.3f}",
        "verdict": VERDICTS[difference["verdict"]],
    }
