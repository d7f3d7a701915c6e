"""The page of a timeline of retrainings: a line a run, with its scores as bars on one scale."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from voco_data.errors import VocoError
from voco_data.qc import Section, html
from voco_data.storage import atomic
from voco_models.evaluation import Interval
from voco_models.tracking.timeline import NOT_FINISHED, Entry, read_timeline

WIDTH_PX, EDGE_PX = 165, 18
"""Width of a bar's picture, and of its edges, which keep the numbers of the axis inside."""
MARKS = {"promoted": "promoted", "kept": "kept", NOT_FINISHED: "unfinished-mark"}
"""Style of what happened; changes by hand have one of their own."""

_ENVIRONMENT = Environment(
    loader=PackageLoader("voco_models.tracking"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on an axis."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A horizontal axis from `low` to `high`."""

    low: float
    high: float
    width: int = WIDTH_PX

    @classmethod
    def around(cls, values: Sequence[float]) -> Scale | None:
        """An axis that holds all values; None without any."""
        if not values:
            return None
        low, high = min(values), max(values)
        return cls(low, high) if high > low else cls(low - 0.5, low + 0.5)

    def shows(self, value: float) -> bool:
        """Whether the axis reaches a value."""
        return self.low <= value <= self.high

    def place(self, value: float) -> float:
        """The place of a value, in pixels."""
        share = (value - self.low) / (self.high - self.low)
        return round(EDGE_PX + share * (self.width - 2 * EDGE_PX), 1)

    @property
    def ticks(self) -> list[Tick]:
        """Two to four round numbers."""
        step = 10.0 ** math.floor(math.log10(self.high - self.low))
        span = self.high - self.low
        step = next(s for s in (step / 5, step / 2, step, 2 * step, 5 * step) if span / s < 4)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        digits = max(0, -math.floor(math.log10(step)))
        return [Tick(i * step, f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def write_timeline_page(runs: Path, page: Path) -> Path:
    """Write the timeline of the folder `runs` as a self-contained page; returns its path.

    It names folders of runs, and no patients. Raises InputError if champion.json is damaged, and
    VocoError if the page cannot be written.
    """
    text = render_timeline(read_timeline(runs))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(page, text)
    except OSError as error:
        raise VocoError(f"{page}: cannot write the page ({error.strerror})") from error
    return page


def render_timeline(entries: Sequence[Entry]) -> str:
    """The page as text."""
    scored = [entry.scored for entry in entries if entry.scored]
    both = [s for one in scored for s in (one.run, one.champion) if s]
    differences = [one.difference for one in scored if one.difference]
    margins = [one.margin for one in scored if one.margin is not None]
    ends = _ends(differences)
    reach = 2 * max(map(abs, ends), default=0.0)
    visible = [margin for margin in margins if margin <= reach]  # another one would hide the bars
    names = _name_runs(entries)
    timeline = _ENVIRONMENT.get_template("timeline.html").render(
        rows=[_make_row(entry, names) for entry in entries],
        scores=Scale.around(_ends(both)),
        differences=Scale.around([*ends, *visible, 0.0] if ends else []),
    )
    notes = _ENVIRONMENT.get_template("notes.html").render()
    sections = [Section("Timeline", timeline), Section("How to read this", notes)]
    return html.render_page("Retrainings", sections, lead=_make_lead(entries, names))


def _ends(intervals: Iterable[Interval]) -> list[float]:
    return [end for interval in intervals for end in (interval.low, interval.value, interval.high)]


def _make_lead(entries: Sequence[Entry], names: dict[str, str]) -> str:
    runs = [entry for entry in entries if not entry.by_hand]
    if not runs:
        return "No retraining has begun yet."
    unfinished = sum(entry.what == NOT_FINISHED for entry in runs)
    champion = entries[-1].champion
    tainted = any(entry.tainted for entry in runs if entry.run == champion)
    used = sum(entry.folder_bytes or 0 for entry in runs)
    return (
        f"{_count(len(runs), 'retraining')}, {unfinished} not finished, "
        f"from {runs[0].time[:10]} to {runs[-1].time[:10]}. "
        f"Champion: {names[champion] if champion else 'none'}"
        f"{', tainted by a withdrawn patient' if tainted else ''}. "
        f"{_format_bytes(used)} in the folders of the runs."
    )


def _name_runs(entries: Sequence[Entry]) -> dict[str, str]:
    """Folder to the name on the page: the day, with time and id where the day is not enough."""
    names: dict[str, str] = {}
    times = {entry.run: entry.time for entry in entries if not entry.by_hand}
    days = Counter(time[:10] for time in times.values())
    minutes = Counter(times.values())
    for run, time in times.items():
        names[run] = time if days[time[:10]] > 1 else time[:10]
        if minutes[time] > 1:
            names[run] += f" {run[-4:]}"
    return names


def _make_row(entry: Entry, names: dict[str, str]) -> dict[str, Any]:
    learnt, scored = entry.learnt, entry.scored
    # The rest of the reason is numbers that have columns of their own.
    reason = entry.reason.partition(": ")[0] if scored and scored.difference else entry.reason
    return {
        "when": entry.time,
        "run": entry.run,
        "by_hand": entry.by_hand,
        "what": entry.what,
        "mark": MARKS.get(entry.what, "hand"),
        "tainted": entry.tainted,
        "learnt": learnt,
        "patients": learnt and _count(learnt.patients, "patient"),
        "series": learnt and _describe_series(learnt.series, learnt.new_series),
        "backbone": entry.backbone and _describe_backbone(entry, names),
        "scored": scored,
        "reason": reason,
        "champion": names[entry.champion] if entry.champion else "none",
        "disk": _describe_disk(entry),
    }


def _describe_series(series: int, new: int | None) -> str:
    return f"{series} series" + ("" if new is None else f", {new} new")


def _describe_backbone(entry: Entry, names: dict[str, str]) -> str:
    assert entry.backbone is not None
    if entry.backbone == entry.run:
        return "pretrained anew"
    return f"from {names.get(entry.backbone, entry.backbone)}"


def _describe_disk(entry: Entry) -> str:
    if entry.by_hand:
        return ""
    return "removed" if entry.folder_bytes is None else _format_bytes(entry.folder_bytes)


def _format_bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
