"""The page of a watch: alarms, a table, and both distributions of each measure as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from voco_data.drift.comparisons import Comparison
from voco_data.qc import Section, render_page

_TEMPLATES = Environment(
    loader=PackageLoader("voco_data.drift"), autoescape=True, undefined=StrictUndefined
)
_WIDTH, _HEIGHT, _LEFT, _BASE = 420, 170, 40, 140
"""Size of a plot, and the place of its axes, in pixels."""
_COLOURS: Final = {"cohort": "#5b6675", "new": "#c4420b"}


def describe(comparison: Comparison) -> str:
    """One line on a difference: what, how much, how many patients, how likely by chance."""
    measure = comparison.measure
    if measure.kind == "value":
        before, now = np.median(comparison.cohort), np.median(comparison.new)
        found = f"median {before:.4g} to {now:.4g} {measure.unit}".rstrip()
    else:
        found = _describe_shares(comparison)
    sign = "" if measure.kind == "category" else "+"
    effect = f"{comparison.effect:{sign}.3g}"
    if measure.relative or measure.kind != "value":
        effect = f"{comparison.effect:{sign}.0%}"
    sizes = f"{len(comparison.cohort)} patients of the cohort, {len(comparison.new)} new"
    return (
        f"{measure.name}: {measure.label}, {found}, largest difference {effect} ({sizes}, "
        f"p {comparison.p_holm:.2g})"
    )


def render(summary: Mapping[str, Any], comparisons: Sequence[Comparison], alpha: float) -> str:
    """The page. The comparisons with an alarm come first."""
    ordered = sorted(comparisons, key=lambda one: (not one.is_alarm(alpha), one.p_holm))
    facts = _TEMPLATES.get_template("summary.html").render(summary=summary)
    rows = [
        {
            "label": one.measure.label,
            "alarm": one.is_alarm(alpha),
            "effect": f"{one.effect:.3g}",
            "min_effect": f"{one.measure.min_effect:g}",
            "p_holm": f"{one.p_holm:.2g}",
            "psi": f"{one.psi:.2f}",
            "plot": Markup(_plot(one)),
            "text": describe(one),
        }
        for one in ordered
    ]
    table = _TEMPLATES.get_template("measures.html").render(rows=rows, alpha=alpha)
    sections = [Section("What was found", facts), Section("Measures", table)]
    lead = f"Patients since {summary['since']}, beside the cohort of {summary['champion']}."
    return render_page("voco drift", sections, lead=lead)


def _describe_shares(comparison: Comparison) -> str:
    if comparison.measure.kind == "share":
        before, now = (
            sample.count("True") / len(sample) for sample in (comparison.cohort, comparison.new)
        )
        return f"{before:.1%} to {now:.1%}"
    return "shares of " + ", ".join(sorted({*comparison.cohort, *comparison.new}))


def _plot(comparison: Comparison) -> str:
    """Cumulative shares of values; bars of shares and categories."""
    samples = {"cohort": comparison.cohort, "new": comparison.new}
    parts = _lines(samples) if comparison.measure.kind == "value" else _bars(comparison, samples)
    keys = [
        f'<text x="{_LEFT + 10 + 90 * i}" y="12" style="fill:{colour}">{name}, '
        f"{len(samples[name])}</text>"
        for i, (name, colour) in enumerate(_COLOURS.items())
    ]
    title = escape(comparison.measure.label)
    frame = f'<path d="M{_LEFT} 20V{_BASE}H{_WIDTH - 10}" style="fill:none;stroke:#9aa3ae"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" style="max-width:100%">'
        f"<title>{title}</title>{frame}{''.join(keys)}{''.join(parts)}</svg>"
    )


def _lines(samples: Mapping[str, Sequence[float]]) -> list[str]:
    low, high = (choose(map(choose, samples.values())) for choose in (min, max))
    width = (high - low) or 1.0

    def x_of(value: float) -> float:
        return _LEFT + (value - low) / width * (_WIDTH - 20 - _LEFT)

    parts = []
    for name, values in samples.items():
        steps = [f"M{x_of(low):.1f} {_BASE}"]
        for number, value in enumerate(sorted(values), 1):
            steps.append(f"H{x_of(value):.1f}V{_BASE - 115 * number / len(values):.1f}")
        path = "".join([*steps, f"H{x_of(high):.1f}"])
        parts.append(f'<path d="{path}" style="fill:none;stroke:{_COLOURS[name]};stroke-width:2"/>')
    for value in (low, high):
        anchor = "start" if value == low else "end"
        parts.append(
            f'<text x="{x_of(value):.1f}" y="{_BASE + 16}" text-anchor="{anchor}">'
            f"{value:.4g}</text>"
        )
    return [*parts, f'<text x="4" y="30">100 %</text><text x="16" y="{_BASE}">0 %</text>']


def _bars(comparison: Comparison, samples: Mapping[str, Sequence[str]]) -> list[str]:
    shares = comparison.measure.kind == "share"
    names = ["True"] if shares else sorted({*comparison.cohort, *comparison.new})
    room = (_WIDTH - 20 - _LEFT) / len(names)
    parts = []
    for i, name in enumerate(names):
        for j, (key, values) in enumerate(samples.items()):
            share = values.count(name) / len(values)
            x, height = _LEFT + 4 + room * (i + 0.45 * j), 105 * share
            parts.append(
                f'<rect x="{x:.1f}" y="{_BASE - height:.1f}" width="{0.4 * room:.1f}" '
                f'height="{height:.1f}" style="fill:{_COLOURS[key]}"/>'
                f'<text x="{x:.1f}" y="{_BASE - height - 3:.1f}">{share:.0%}</text>'
            )
        label = "" if shares else escape(name)
        parts.append(f'<text x="{_LEFT + 4 + room * i:.1f}" y="{_BASE + 16}">{label}</text>')
    return parts
