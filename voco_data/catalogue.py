"""The catalogue: all records of a store in one table, rebuilt from them at any time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from voco_data import tables
from voco_data.record import Record

FILE = Path("volumes", "catalogue.parquet")
"""Inside the array's folder, where no Zarr tool takes it for a member of the group."""

COLUMNS: dict[str, str] = {
    "row": "int64",
    "patient_id": "string",
    "study_uid": "string",
    "series_uid": "string",
    "ids": "string",
    "layout": "string",
    "source": "string",
    "transfer_syntax": "string",
    "n_slices": "int64",
    "rows": "int64",
    "columns": "int64",
    "spacing_z_mm": "float64",
    "spacing_y_mm": "float64",
    "spacing_x_mm": "float64",
    "box_method": "string",
    "box_confidence": "float64",
    "box_z_low_mm": "float64",
    "box_z_high_mm": "float64",
    "box_y_low_mm": "float64",
    "box_y_high_mm": "float64",
    "box_x_low_mm": "float64",
    "box_x_high_mm": "float64",
    "box_start_z": "int64",
    "box_stop_z": "int64",
    "instance_numbers": "object",
    "flags": "string",
    "input_digest": "string",
    "content_digest": "string",
    "stat_digest": "string",
    "chunk_checksum": "string",
}
"""Columns of the catalogue and their types, a line a stored series, sorted by row."""


def line(record: Record) -> dict[str, Any]:
    """One record as a flat line of the catalogue."""
    data = asdict(record)
    flat = {name: data[name] for name in COLUMNS if name in data}
    flat |= dict(zip(("n_slices", "rows", "columns"), record.shape, strict=True))
    for axis, spacing, low, high in zip(
        "zyx", record.spacing_mm, record.box_low_mm, record.box_high_mm, strict=True
    ):
        flat[f"spacing_{axis}_mm"] = spacing
        flat[f"box_{axis}_low_mm"] = low
        flat[f"box_{axis}_high_mm"] = high
    flat["box_start_z"], flat["box_stop_z"] = record.box_start[0], record.box_stop[0]
    flat["instance_numbers"] = list(record.instance_numbers)
    flat["flags"] = " ".join(record.flags)
    return flat


def frame(lines: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A catalogue table from lines; empty with the right columns where there are none."""
    table = pd.DataFrame(list(lines), columns=list(COLUMNS))
    return table.astype(COLUMNS).sort_values("row", ignore_index=True)


def write(store: Path, table: pd.DataFrame) -> None:
    """Replace the store's catalogue, atomically."""
    tables.write(store / FILE, table)


def read(store: Path) -> pd.DataFrame:
    """The store's catalogue; empty where no run has finished yet. StoreCorrupt if unreadable."""
    table = tables.read(store / FILE, COLUMNS)
    return frame([]) if table is None else table
