"""The QC report of one run: a page that shows the outliers among thousands of series.

One self-contained file. Its rows are HTML in the order of the outlier score, so it can be read
without scripts; the script filters, sorts, plots and opens a series. Its Content-Security-Policy
forbids to load anything.
"""

from __future__ import annotations

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
from voco_data.qc.html import ENVIRONMENT, csp_hash, read_source
from voco_data.qc.preview import Preview
from voco_data.qc.report_rows import LedgerLine, Row, select_rows
from voco_data.storage import PREVIEWS_FOLDER, ReadableStorage
from voco_data.volumes import hu_histogram

MAX_PICTURE_CHARACTERS = 22_000_000
"""Limit for all pictures of a page, as base64: those of about a thousand series."""
ROWS_SHOWN = 1500
"""Rows on screen at once; a button adds as many. Filters and sorting apply to all rows."""
READERS = 16
"""Threads that read previews: each preview in a bucket takes a round trip."""
STATUSES = ("refused", "stored", "cached", "skipped", "gone", "pruned")
SCRIPTS = ("data.js", "plots.js", "detail.js", "table.js")
SHARE_UNIT = 10_000
"""Histograms of the page are integers in parts of this number, which take few characters."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the page."""

    ledger: LedgerLine
    """The ledger's values; None if it is missing."""
    measures: dict[str, float | None]
    """Values derived from them: keys as in voco_data.qc.outliers."""
    score: float | None
    """None for rows that were not kept."""
    why: tuple[str, ...]
    preview: Preview | None


def render_report(title: str, ledger: Path, root: ReadableStorage) -> str:
    """The page as text, for the ledger of one run; previews are read from `root`."""
    selected = select_rows(ledger)
    entries = _read_entries(selected.rows, root)
    pictures = _pictures(entries)
    style = read_source("qc/page.css")
    script = "".join(read_source(f"qc/{name}") for name in SCRIPTS)
    return ENVIRONMENT.get_template("qc/page.html").render(
        title=title,
        style=Markup(style),
        style_hash=csp_hash(style),
        script=Markup(script),
        script_hash=csp_hash(script),
        data=Markup(_script_data(entries)),
        entries=entries,
        pictures=pictures,
        rows_shown=ROWS_SHOWN,
        series=selected.counts["kind"]["series"],
        kept=selected.kept,
        files=selected.counts["kind"]["file"],
        patients=selected.patients,
        outliers=selected.outliers,
        statuses=_ordered(selected.counts["status"], STATUSES),
        kinds=_ordered(selected.counts["kind"], ("series", "file")),
        reasons=_ordered(selected.counts["reason"]),
        left_out={
            kind: selected.counts["kind"][kind] - sum(e.ledger["kind"] == kind for e in entries)
            for kind in ("series", "file")
        },
        unpictured=sum(e.preview is not None for e in entries) - len(pictures),
        folder=PREVIEWS_FOLDER,
        slot=preview.SLOT_PX,
        width=len(preview.PLANES) * preview.SLOT_PX,
        planes=preview.PLANES,
        measures=outliers.MEASURES,
        rules=outliers,
        is_compared=selected.kept >= outliers.MIN_SERIES,
    )


def _read_entries(rows: Sequence[Row], root: ReadableStorage) -> list[Entry]:
    """Rows with the previews of those that were kept."""
    previews = root.cached_reader(PREVIEWS_FOLDER)

    def read_entry(row: Row) -> Entry:
        is_kept = row.score is not None
        key = preview.key_of(row.ledger["input_digest"]) if is_kept else None
        series_preview = None if key is None else preview.read(previews, key)
        return Entry(row.ledger, row.measures, row.score, row.why, series_preview)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read_entry, rows))


def _pictures(entries: Sequence[Entry]) -> dict[int, str]:
    """Data URIs by row number, in the page's order, up to MAX_PICTURE_CHARACTERS."""
    pictures: dict[int, str] = {}
    characters_left = MAX_PICTURE_CHARACTERS
    for number, entry in enumerate(entries):
        if entry.preview is None:
            continue
        uri = entry.preview.data_uri()
        characters_left -= len(uri)
        if characters_left < 0:
            break
        pictures[number] = uri
    return pictures


def _ordered(counts: Counter[str], order: Sequence[str] | None = None) -> list[tuple[str, int]]:
    """Values and their counts: the most frequent first, or in `order`."""
    names = order or sorted(counts, key=lambda name: (-counts[name], name))
    return [(name, counts[name]) for name in names if counts[name]]


def _script_data(entries: Sequence[Entry]) -> str:
    """The data of the script as JSON, escaped so that no value can end its HTML element."""
    columns = list(entries[0].ledger) if entries else []
    measures = ["scan_mm", "field_mm", "box_mm", "box_above_mm", "hu_p5", "hu_median", "hu_p95"]
    data = {
        "bins": {"low": hu_histogram.LOW_HU, "step": hu_histogram.STEP_HU},
        "unit": SHARE_UNIT,
        "shown": ROWS_SHOWN,
        "columns": columns,
        "measures": measures,
        "rows": [
            {
                "ledger": [_rounded(e.ledger[name]) for name in columns],
                "measures": [_rounded(e.measures.get(name)) for name in measures],
                "score": e.score,
                "why": e.why,
                "boxes": e.preview.boxes if e.preview else None,
                "hu": _shares(e.preview),
            }
            for e in entries
        ],
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _rounded(value: Any) -> Any:
    """Round floats to 4 decimals, in mm a tenth of a micrometre; None for NaN."""
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else None


def _shares(series_preview: Preview | None) -> list[int] | None:
    """The share of each HU bin, in 1 / SHARE_UNIT."""
    if series_preview is None:
        return None
    total = sum(series_preview.histogram) or 1
    return [round(SHARE_UNIT * n / total) for n in series_preview.histogram]
