"""What went in, what did not and why, where the boxes lie: the ingest part of a longer report.

Static, for a page that tells of more than ingest. The full report of a run is voco_data.qc.report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from voco_data.qc import preview
from voco_data.qc.html import ENVIRONMENT, Section
from voco_data.reasons import Reason
from voco_data.storage.base import Storage
from voco_data.storage.root import PREVIEWS_FOLDER

PICTURES = 12
"""Previews on a page; the lowest confidence first."""
LISTED = 500
"""Rows of a table on a page; the ledger has all."""


def sections(ledger: Path, root: Storage) -> list[Section]:
    """Sections for the ledger of one run; previews come from `root`."""
    table = pd.read_parquet(ledger)
    return [
        Section("What went in", _render("ingest.html", table=_counts(table), **_series(table))),
        Section("What was refused, and why", _render("refused.html", **_refused(table))),
        Section(
            "Slices and boxes",
            _render("boxes.html", pictures=_pictures(table, root), slot=preview.SLOT_PX),
        ),
    ]


def _render(template: str, **values: Any) -> str:
    return ENVIRONMENT.get_template(template).render(**values)


def _counts(table: pd.DataFrame) -> list[tuple[str, str, int]]:
    counted = table.groupby(["kind", "status"]).size().reset_index(name="n")
    return list(counted.itertuples(index=False, name=None))


def _series(table: pd.DataFrame) -> dict[str, Any]:
    kept = table[table["status"].isin(["stored", "cached"])].sort_values("box_confidence")
    return {
        "patients": int(kept["patient_id"].nunique()),
        "kept": kept.head(LISTED).to_dict("records"),
        "more": max(0, len(kept) - LISTED),
    }


def _refused(table: pd.DataFrame) -> dict[str, Any]:
    out = table[table["status"].isin(["refused", "skipped"])]
    meanings = {reason.value: reason.name.replace("_", " ").lower() for reason in Reason}
    counted = out.groupby(["status", "reason"]).size().reset_index(name="n")
    return {
        "reasons": list(counted.itertuples(index=False, name=None)),
        "meanings": meanings,
        "rows": out.head(LISTED).to_dict("records"),
        "more": max(0, len(out) - LISTED),
    }


def _pictures(table: pd.DataFrame, root: Storage) -> list[dict[str, Any]]:
    kept = table[table["status"].isin(["stored", "cached"])].sort_values(
        ["box_confidence", "source"]
    )
    found: list[dict[str, Any]] = []
    previews = root.cached(PREVIEWS_FOLDER)
    for row in kept.head(PICTURES).to_dict("records"):
        look = preview.read(previews, preview.key_of(str(row["input_digest"])))
        if look is not None:
            found.append(
                {
                    "series_uid": row["series_uid"],
                    "box_method": row["box_method"],
                    "box_confidence": row["box_confidence"],
                    "look": look,
                }
            )
    return found
