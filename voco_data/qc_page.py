"""The QC report of one run: a page on which a person finds what is odd among a thousand series.

One file. Its rows are plain HTML in outlier order, so it can be read without its script; the
script filters, sorts, plots and opens a series. Nothing is loaded: the policy forbids it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from voco_data import histogram, outliers, preview
from voco_data.page import ENVIRONMENT
from voco_data.place import Place

PICTURE_CHARACTERS = 22_000_000
"""Pictures of a page, as base64. A thousand series fit; beyond, the first rows have theirs."""
ROWS_SHOWN = 1500
"""Rows on screen at once; a button shows as many more. Filter and sort see all of them."""
FILES = 1000
"""Rows for files that belong to no series; an archive may hold a hundred times more."""
READERS = 16
"""Previews that are read at once."""
BATCH_ROWS = 4096
KEPT = ("stored", "cached")
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
    """What is worked out from them and from the HU: keys as in voco_data.outliers."""
    look: preview.Preview | None
    score: float | None
    """None for what was not kept."""
    why: tuple[str, ...]


def render(title: str, ledger: Path, root: Place) -> str:
    """The page as text, for the ledger of one run; previews come from `root`."""
    table, counts = _read(ledger)
    entries = _entries(table, root)
    pictures = _pictures(entries)
    kept = [e for e in entries if e.score is not None]
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
        series=sum(e.ledger["kind"] == "series" for e in entries),
        kept=len(kept),
        files=counts["kind"]["file"],
        patients=len({e.ledger["patient_id"] for e in kept}),
        outliers=sum(1 for e in kept if e.score),
        statuses=_ordered(counts["status"], STATUSES),
        kinds=_ordered(counts["kind"], ("series", "file")),
        reasons=_ordered(counts["reason"]),
        left_out=counts["kind"]["file"] - sum(e.ledger["kind"] == "file" for e in entries),
        unpictured=sum(e.look is not None for e in entries) - len(pictures),
        folder=preview.FOLDER,
        slot=preview.SLOT_PX,
        width=len(preview.PLANES) * preview.SLOT_PX,
        planes=preview.PLANES,
        measures=outliers.MEASURES,
        rules=outliers,
        judged=len(kept) >= outliers.FEWEST,
    )


def _read(ledger: Path) -> tuple[pd.DataFrame, dict[str, Counter[str]]]:
    """All series and at most FILES files, refused ones first; and how often every value occurs.

    In pieces: an archive may hold a million files that belong to no series.
    """
    series: list[pa.RecordBatch] = []
    files: dict[str, list[pa.RecordBatch]] = {"refused": [], "skipped": []}
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("kind", "status", "reason")}
    with pq.ParquetFile(ledger) as source:
        for batch in source.iter_batches(BATCH_ROWS):
            for name, counter in counts.items():
                counter.update(value for value in batch.column(name).to_pylist() if value)
            series.append(batch.filter(pc.equal(batch["kind"], "series")))
            loose = batch.filter(pc.equal(batch["kind"], "file"))
            for status, kept in files.items():
                if (room := FILES - sum(len(piece) for piece in kept)) > 0:
                    kept.append(loose.filter(pc.equal(loose["status"], status)).slice(0, room))
        schema = source.schema_arrow
    loose = pa.Table.from_batches([*files["refused"], *files["skipped"]], schema)
    table = pa.concat_tables([pa.Table.from_batches(series, schema), loose.slice(0, FILES)])
    return table.to_pandas(), counts


def _entries(table: pd.DataFrame, root: Place) -> list[Entry]:
    """Rows in outlier order."""
    plain = table.astype(object).where(table.notna(), None)
    records = plain.sort_values(["source", "series_uid"]).to_dict("records")
    rows = [{str(name): value for name, value in record.items()} for record in records]
    files = [row for row in rows if row["kind"] == "file"]
    files.sort(key=lambda row: row["status"])  # refused before skipped
    rest = [row for row in rows if row["kind"] == "series" and row["status"] not in KEPT]
    kept = [row for row in rows if row["kind"] == "series" and row["status"] in KEPT]
    pictures = root.cached(preview.FOLDER)
    with ThreadPoolExecutor(READERS) as pool:  # those of a bucket take a round trip each
        looks = list(
            pool.map(lambda row: preview.read(pictures, preview.key_of(row["input_digest"])), kept)
        )
    measures = [_measures(row, look) for row, look in zip(kept, looks, strict=True)]
    verdicts = outliers.judge([row | m for row, m in zip(kept, measures, strict=True)])
    entries = [
        Entry(row, m, look, verdict.score, verdict.why)
        for row, m, look, verdict in zip(kept, measures, looks, verdicts, strict=True)
    ]
    entries += [Entry(row, {}, None, None, ()) for row in [*rest, *files]]
    return sorted(entries, key=_oddness)


def _oddness(entry: Entry) -> tuple[int, float]:
    """Refused first, series before files; then by score; what is no CT comes last."""
    group = {"refused": 0, "skipped": 4}.get(entry.ledger["status"], 2)
    return group + (entry.ledger["kind"] == "file"), -(entry.score or 0.0)


def _measures(row: Mapping[str, Any], look: preview.Preview | None) -> dict[str, float | None]:
    def between(low: str, high: str) -> float | None:
        return None if row[low] is None or row[high] is None else float(row[high] - row[low])

    columns, spacing = row["columns"], row["spacing_x_mm"]
    percentiles = {"hu_p5": 5, "hu_median": 50, "hu_p95": 95}
    return {
        "scan_mm": between("z_low_mm", "z_high_mm"),
        "box_mm": between("box_z_low_mm", "box_z_high_mm"),
        "box_above_mm": between("z_low_mm", "box_z_low_mm"),
        "field_mm": None if columns is None or spacing is None else float(columns * spacing),
        **{
            key: None if look is None else histogram.tissue_percentile(look.histogram, percent)
            for key, percent in percentiles.items()
        },
    }


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
        "bins": {"low": histogram.LOW_HU, "step": histogram.STEP_HU},
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
