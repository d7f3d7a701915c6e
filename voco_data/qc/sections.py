"""Sections of a longer page about ingest: what was stored, what was refused and why, the boxes.

They need no scripts. The full report of a run is voco_data.qc.report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from voco_data.qc import preview
from voco_data.qc.html import ENVIRONMENT, Section
from voco_data.storage import PREVIEWS_FOLDER, ReadableStorage

MAX_PICTURES = 12
"""Previews on a page; the lowest confidence first."""
MAX_ROWS = 500
"""Rows of a table on a page; the ledger has all."""


def ingest_sections(ledger: Path, root: ReadableStorage) -> list[Section]:
    """Sections for the ledger of one run; previews are read from `root`."""
    table = pd.read_parquet(ledger)
    boxes = {"pictures": _pictures(table, root), "slot": preview.SLOT_PX}
    return [
        Section("What went in", _render("ingest.html", **_stored(table))),
        Section("What was refused, and why", _render("refused.html", **_refused(table))),
        Section("Slices and boxes", _render("boxes.html", **boxes)),
    ]


def _render(template: str, **values: Any) -> str:
    return ENVIRONMENT.get_template(template).render(**values)


def _kept(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"].isin(["stored", "cached"])]


def _stored(table: pd.DataFrame) -> dict[str, Any]:
    counts = table.groupby(["kind", "status"]).size().reset_index(name="n")
    kept = _kept(table).sort_values("box_confidence")
    return {
        "table": list(counts.itertuples(index=False, name=None)),
        "patients": int(kept["patient_id"].nunique()),
        "kept": kept.head(MAX_ROWS).to_dict("records"),
        "more": max(0, len(kept) - MAX_ROWS),
    }


def _refused(table: pd.DataFrame) -> dict[str, Any]:
    refused = table[table["status"].isin(["refused", "skipped"])]
    counts = refused.groupby(["status", "reason"]).size().reset_index(name="n")
    return {
        "reasons": list(counts.itertuples(index=False, name=None)),
        "rows": refused.head(MAX_ROWS).to_dict("records"),
        "more": max(0, len(refused) - MAX_ROWS),
    }


def _pictures(table: pd.DataFrame, root: ReadableStorage) -> list[dict[str, Any]]:
    kept = _kept(table).sort_values(["box_confidence", "source"])
    previews = root.cached_reader(PREVIEWS_FOLDER)
    pictures: list[dict[str, Any]] = []
    for row in kept.head(MAX_PICTURES).to_dict("records"):
        series_preview = preview.read(previews, preview.key_of(str(row["input_digest"])))
        if series_preview is not None:
            pictures.append(
                {
                    "series_uid": row["series_uid"],
                    "box_method": row["box_method"],
                    "box_confidence": row["box_confidence"],
                    "preview": series_preview,
                }
            )
    return pictures
