"""The QC report of one run: a page on which a person finds what is odd among thousands of series.

One file. Its rows are plain HTML in outlier order, so it can be read without its script; the
script filters, sorts, plots and opens a series. Nothing is loaded: the policy forbids it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from voco_data.qc import outliers, preview
from voco_data.qc.html import ENVIRONMENT
from voco_data.qc.report_rows import Row, choose
from voco_data.storage.base import Storage
from voco_data.storage.root import PREVIEWS_FOLDER
from voco_data.volumes import hu_histogram

PICTURE_CHARACTERS = 22_000_000
"""Pictures of a page, as base64. A thousand series fit; beyond, the first rows have theirs."""
ROWS_SHOWN = 1500
"""Rows on screen at once; a button shows as many more. Filter and sort see all of them."""
READERS = 16
"""Previews that are read at once."""
STATUSES = ("refused", "stored", "cached", "skipped")
SCRIPTS = ("data.js", "plots.js", "detail.js", "table.js")
PER = 10_000
"""A histogram's bins are shares of so many voxels: short numbers."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the page."""

    ledger: dict[str, Any]
    """The ledger's values; None where there is none."""
    measures: dict[str, float | None]
    """What is worked out from them and from the HU: keys as in voco_data.qc.outliers."""
    score: float | None
    """None for what was not kept."""
    why: tuple[str, ...]
    look: preview.Preview | None


def render(title: str, ledger: Path, root: Storage) -> str:
    """The page as text, for the ledger of one run; previews come from `root`."""
    found = choose(ledger)
    entries = _entries(found.rows, root)
    pictures = _pictures(entries)
    style, script = _source("page.css"), "".join(_source(name) for name in SCRIPTS)
    return ENVIRONMENT.get_template("qc/page.html").render(
        title=title,
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        data=Markup(_data(entries)),
        entries=entries,
        pictures=pictures,
        rows_shown=ROWS_SHOWN,
        series=found.counts["kind"]["series"],
        kept=found.kept,
        files=found.counts["kind"]["file"],
        patients=found.patients,
        outliers=found.outliers,
        statuses=_ordered(found.counts["status"], STATUSES),
        kinds=_ordered(found.counts["kind"], ("series", "file")),
        reasons=_ordered(found.counts["reason"]),
        left_out={
            kind: found.counts["kind"][kind] - sum(e.ledger["kind"] == kind for e in entries)
            for kind in ("series", "file")
        },
        unpictured=sum(e.look is not None for e in entries) - len(pictures),
        folder=PREVIEWS_FOLDER,
        slot=preview.SLOT_PX,
        width=len(preview.PLANES) * preview.SLOT_PX,
        planes=preview.PLANES,
        measures=outliers.MEASURES,
        rules=outliers,
        judged=found.kept >= outliers.FEWEST,
    )


def _entries(rows: Sequence[Row], root: Storage) -> list[Entry]:
    """Rows with the previews of those that were kept."""
    pictures = root.cached(PREVIEWS_FOLDER)

    def entry(row: Row) -> Entry:
        kept = row.score is not None
        look = preview.read(pictures, preview.key_of(row.ledger["input_digest"])) if kept else None
        return Entry(row.ledger, row.measures, row.score, row.why, look)

    with ThreadPoolExecutor(READERS) as pool:  # those of a bucket take a round trip each
        return list(pool.map(entry, rows))


def _pictures(entries: Sequence[Entry]) -> dict[int, str]:
    """Row number to data URI, in the page's order until the page has enough."""
    found: dict[int, str] = {}
    room = PICTURE_CHARACTERS
    for number, entry in enumerate(entries):
        if entry.look is None:
            continue
        uri = entry.look.data_uri()
        room -= len(uri)
        if room < 0:
            break
        found[number] = uri
    return found


def _ordered(counted: Counter[str], order: Sequence[str] | None = None) -> list[tuple[str, int]]:
    """Values and how often each occurs: the most frequent first, or in `order`."""
    names = order or sorted(counted, key=lambda name: (-counted[name], name))
    return [(name, counted[name]) for name in names if counted[name]]


def _data(entries: Sequence[Entry]) -> str:
    """What the script needs, as JSON that no text of a file can leave."""
    columns = list(entries[0].ledger) if entries else []
    measures = ["scan_mm", "field_mm", "box_mm", "box_above_mm", "hu_p5", "hu_median", "hu_p95"]
    data = {
        "bins": {"low": hu_histogram.LOW_HU, "step": hu_histogram.STEP_HU},
        "per": PER,
        "shown": ROWS_SHOWN,
        "columns": columns,
        "measures": measures,
        "rows": [
            {
                "ledger": [_short(e.ledger[name]) for name in columns],
                "measures": [_short(e.measures.get(name)) for name in measures],
                "score": e.score,
                "why": e.why,
                "boxes": e.look.boxes if e.look else None,
                "hu": _shares(e.look),
            }
            for e in entries
        ],
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _short(value: Any) -> Any:
    """Numbers as a person would write them: a micrometre is beyond any scanner."""
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else None


def _shares(look: preview.Preview | None) -> list[int] | None:
    if look is None:
        return None
    total = sum(look.histogram) or 1
    return [round(PER * n / total) for n in look.histogram]


def _source(name: str) -> str:
    """A file of the page as it is: style and script are no templates."""
    assert ENVIRONMENT.loader is not None
    return ENVIRONMENT.loader.get_source(ENVIRONMENT, f"qc/{name}")[0]


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
