"""Sections of the report with the measures of `compute_measures`: tables, and a plot for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from voco_data.qc import Section
from voco_models.evaluation.markup import render
from voco_models.evaluation.plots import decision_plot, reliability_plot, roc_plot

OVER_ORGANS = "all organs"
ABSENT = "–"
SHOWN_THRESHOLDS = (0.1, 0.25, 0.5)
"""Thresholds of the table below the decision curves."""
NEGATIVES = {"all": "all", "no_injury": "no injury", "injured_elsewhere": "injured elsewhere"}
"""Types of negatives, and their headings."""


def measure_sections(measures: Mapping[str, Any] | None) -> list[Section]:
    """The sections; none for evaluations of older versions, which have no measures."""
    if measures is None:
        return []
    groups, everything = measures["by_group"], measures["over_groups"]
    return [
        Section("Telling grades apart", _render_areas(groups, everything)),
        Section("Probabilities", _render_probabilities(groups, everything)),
        Section("Called grades", _render_calls(groups, everything)),
        Section("Decision curves", _render_decision_curves(groups)),
    ]


def _render_areas(groups: Mapping[str, Any], everything: Mapping[str, Any]) -> str:
    grades = list(dict.fromkeys(grade for group in groups.values() for grade in group["auroc"]))
    rows = [
        (name, [format_interval(group["auroc"].get(grade)) for grade in grades])
        for name, group in groups.items()
    ]
    return render(
        "areas.html",
        plot=Markup(roc_plot(groups)),
        grades=grades,
        rows=rows,
        mean=format_interval(everything["auroc"]),
        undefined={
            name: group["undefined"] for name, group in groups.items() if group["undefined"]
        },
    )


def _render_probabilities(groups: Mapping[str, Any], everything: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            format_interval(group["brier"]),
            format_interval(group["ece"]),
            f"{group['ece_by_chance']:.2f}",
        )
        for name, group in groups.items()
    ]
    rows.append(
        (OVER_ORGANS, format_interval(everything["brier"]), format_interval(everything["ece"]), "")
    )
    return render("probabilities.html", plot=Markup(reliability_plot(groups)), rows=rows)


def _render_calls(groups: Mapping[str, Any], everything: Mapping[str, Any]) -> str:
    macro = [
        (
            name,
            [
                format_interval(values[measure][rule])
                for measure in ("macro_precision", "macro_recall")
                for rule in ("argmax", "thresholds")
            ],
        )
        for name, values in [*groups.items(), (OVER_ORGANS, everything)]
    ]
    shares = [
        (
            name,
            [
                format_share(share)
                for share in (group["sensitivity"], *(group["specificity"][n] for n in NEGATIVES))
            ],
        )
        for name, group in groups.items()
    ]
    return render("calls.html", macro=macro, shares=shares, negatives=NEGATIVES.values())


def _render_decision_curves(groups: Mapping[str, Any]) -> str:
    rows = []
    for name, group in groups.items():
        curve = group["decision_curve"]
        cells = []
        for threshold in SHOWN_THRESHOLDS:
            i = curve["threshold"].index(threshold)
            values = {key: curve[key][i] for key in ("low", "high")} | {"value": curve["model"][i]}
            cells.append((format_interval(values), f"{curve['treat_all'][i]:.2f}"))
        rows.append((name, cells))
    percents = [f"{100 * threshold:g} %" for threshold in SHOWN_THRESHOLDS]
    plot = Markup(decision_plot(groups))
    return render("decision_curves.html", plot=plot, percents=percents, rows=rows)


def format_interval(interval: Mapping[str, float] | None) -> str:
    """`0.68 (0.47 to 0.87)`; a dash for what is not defined."""
    if interval is None:
        return ABSENT
    return "{value:.2f} ({low:.2f} to {high:.2f})".format(**interval).replace("-0.00", "0.00")


def format_share(share: Mapping[str, float] | None) -> str:
    """As `format_interval`, with the number of patients."""
    return ABSENT if share is None else f"{format_interval(share)}, n = {share['patients']}"
