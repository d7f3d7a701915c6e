"""Figures over time: series of each night, scores and speed of each retraining, on one page.

OUT/figures.json   the figures
OUT/report.html    the page

What is not recorded is not shown. Nights without a ledger had nothing new, or no run.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup, escape

from voco_data.errors import translate_unwritable
from voco_data.qc import Section, ledger, render_page
from voco_data.storage import REPORT, RUN_ID, RUNS_FOLDER, Storage, atomic, existing_root
from voco_models.tracking.champions import (
    EVALUATE_FOLDER,
    PRETRAIN_FOLDER,
    Champions,
    read_champions,
)
from voco_models.tracking.scores import read_own_score
from voco_models.training import HEALTH, read_history

FIGURES: Final = "figures.json"
NIGHTS: Final = 60
"""The last preprocess runs that are shown."""
_WIDTH, _HEIGHT = 600, 90
"""Size of a sparkline, in pixels."""
_LEFT = 60
"""Pixels for the labels at its left."""


@dataclass(frozen=True, slots=True)
class Night:
    """One preprocess run that wrote a ledger."""

    ended: str
    """Local time of the machine."""
    series: int
    stored: int
    refused: int


@dataclass(frozen=True, slots=True)
class RetrainingFigures:
    """One finished retraining."""

    run: str
    finished: str
    status: str
    """`champion`, `former champion` or `challenger`."""
    score_name: str
    """The score that decides about promotion; empty if the evaluation is gone."""
    score: float | None
    low: float | None
    high: float | None
    """Ends of the 95 % interval."""
    crops_per_second: float | None
    """Median of pretraining; None if the run took another one's backbone, or it is gone."""
    data_wait: float | None
    """Median share of the time of pretraining that waited for batches."""


def write_figures(root: str | Path, runs: Path | None, out: Path) -> dict[str, Any]:
    """Collect the figures of a root and a folder of retrainings, and write the page to `out`.

    Raises InputError for a root that is not there and a damaged champion.json, VocoError if the
    page cannot be written.
    """
    nights = list(_read_nights(existing_root(root)))[-NIGHTS:]
    trained = [] if runs is None else list(_read_retrainings(runs, read_champions(runs)))
    values = {"nights": [asdict(n) for n in nights], "retrainings": [asdict(r) for r in trained]}
    with translate_unwritable(out):
        out.mkdir(parents=True, exist_ok=True)
        atomic.write_text(out / REPORT, _render(nights, trained))
        atomic.write_text(out / FIGURES, json.dumps(values, indent=1) + "\n")
    return values | {"report": str(out / REPORT)}


def _read_nights(root: Storage) -> Iterator[Night]:
    names = {key.split("/")[1] for key, _ in root.list_objects(RUNS_FOLDER)}
    for name in sorted(filter(RUN_ID.fullmatch, names)):
        run = root / RUNS_FOLDER / name
        if run.size(ledger.KEY) is None:
            continue
        rows = ledger.read_rows(run, ["kind", "status"])
        count = Counter(row["status"] for row in rows if row["kind"] == "series")
        if not count:
            continue  # damaged, or an archive without a series
        ended = time.strptime(name.partition("-")[0], "%Y%m%dT%H%M%S")
        series = count["stored"] + count["cached"] + count["refused"]
        when = time.strftime("%Y-%m-%d %H:%M", ended)
        yield Night(when, series, count["stored"], count["refused"])


def _read_retrainings(runs: Path, champions: Champions) -> Iterator[RetrainingFigures]:
    for run in champions.runs:
        folder = runs / run.run
        scored = read_own_score(folder / EVALUATE_FOLDER)
        rows = read_history(folder / PRETRAIN_FOLDER, HEALTH)
        yield RetrainingFigures(
            run.run,
            run.finished,
            champions.status(run.run),
            "" if scored is None else scored.score,
            None if scored is None else scored.run.value,
            None if scored is None else scored.run.low,
            None if scored is None else scored.run.high,
            _median([row["crops_per_second"] for row in rows if "crops_per_second" in row]),
            _median([row["data_wait"] for row in rows if "data_wait" in row]),
        )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _render(nights: Sequence[Night], trained: Sequence[RetrainingFigures]) -> str:
    ended, finished = [night.ended for night in nights], [each.finished for each in trained]
    waits = [each.data_wait for each in trained]
    sections = [
        Section(
            "Preprocessing",
            _sparkline("new series", ended, [night.stored for night in nights])
            + _sparkline("refused series", ended, [night.refused for night in nights])
            + _table([asdict(night) for night in reversed(nights)]),
        ),
        Section(
            "Retrainings",
            _sparkline("score, lower is better", finished, [each.score for each in trained])
            + _sparkline("crops a second", finished, [each.crops_per_second for each in trained])
            + _sparkline("share of the time that waits for data", finished, waits)
            + _table([asdict(each) for each in reversed(trained)]),
        ),
    ]
    lead = "Oldest left, newest right. Nights without a ledger had nothing new, or no run."
    return render_page("voco figures", sections, lead=lead)


def _sparkline(title: str, times: Sequence[str], values: Sequence[float | None]) -> Markup:
    """Values over time, from 0 to the largest one, with a gap where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return Markup("<p>{}: none yet</p>").format(title)
    top, step = max(known) or 1.0, (_WIDTH - _LEFT - 5) / max(1, len(values) - 1)
    xs = [_LEFT + i * step for i in range(len(values))]
    points = "".join(
        f'<circle cx="{x:.1f}" cy="{_y(v, top):.1f}" r="2.5" style="fill:#0b6bcb"/>'
        for x, v in zip(xs, values, strict=True)
        if v is not None
    )
    lines = "".join(
        f'<path d="M{x:.1f} {_y(a, top):.1f}L{x + step:.1f} {_y(b, top):.1f}" '
        'style="stroke:#0b6bcb;fill:none"/>'
        for x, (a, b) in zip(xs, itertools.pairwise(values), strict=False)
        if a is not None and b is not None
    )
    text = f"{title}: last {known[-1]:.4g}, highest {max(known):.4g}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'width="{_WIDTH}" height="{_HEIGHT}" style="max-width:100%"><title>{escape(title)}</title>'
        f"{_axes(top, times)}{lines}{points}</svg>"
    )
    form = '<figure style="margin:1.2em 0"><figcaption>{}</figcaption>{}</figure>'
    return Markup(form).format(text, Markup(svg))


def _axes(top: float, times: Sequence[str]) -> str:
    """The line at 0, and labels: 0 and the largest value, the first and the last day."""
    days = [escape(time[:10]) for time in (times[0], times[-1])]
    labels = [
        (_LEFT - 8, _y(0, top) + 4, "end", "0"),
        (_LEFT - 8, _y(top, top) + 4, "end", f"{top:.4g}"),
        (_LEFT, _HEIGHT - 2, "start", days[0]),
        (_WIDTH - 5, _HEIGHT - 2, "end", days[1] if len(times) > 1 else ""),
    ]
    texts = "".join(
        f'<text x="{x}" y="{y:.1f}" text-anchor="{anchor}" style="font-size:11px;fill:#667">'
        f"{text}</text>"
        for x, y, anchor, text in labels
    )
    zero = _y(0, top)
    line = f'<path d="M{_LEFT} {zero:.1f}H{_WIDTH}" style="stroke:#bbb;fill:none"/>'
    return line + texts


def _y(value: float, top: float) -> float:
    """Between the highest point and the line at 0, below which the days are."""
    return _HEIGHT - 18 - (_HEIGHT - 26) * value / top


def _table(rows: Sequence[dict[str, Any]]) -> Markup:
    if not rows:
        return Markup("")
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in rows[0])
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(_cell(cell)) for cell in row.values())
        )
        for row in rows
    )
    return Markup('<div class="wide"><table><tr>{}</tr>{}</table></div>').format(head, body)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
