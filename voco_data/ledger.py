"""The ledger of a run: a row a series found, and a row a file that belongs to none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pandas as pd

from voco_data import atomic

Status = Literal["stored", "cached", "refused", "skipped"]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One line. Ids and source are those that may be written; lengths in mm, LPS."""

    kind: Literal["series", "file"]
    source: str
    series_uid: str
    patient_id: str
    status: Status
    reason: str = ""
    """A code of voco_data.reasons where the row is refused or skipped."""
    detail: str = ""
    n_slices: int | None = None
    rows: int | None = None
    columns: int | None = None
    spacing_z_mm: float | None = None
    spacing_y_mm: float | None = None
    spacing_x_mm: float | None = None
    z_low_mm: float | None = None
    """Lowest z that the scan covers."""
    z_high_mm: float | None = None
    """Highest z that the scan covers."""
    transfer_syntax: str = ""
    box_method: str = ""
    box_z_low_mm: float | None = None
    box_z_high_mm: float | None = None
    box_confidence: float | None = None
    flags: str = ""
    input_digest: str = ""


_TYPES = {
    "n_slices": "Int64",
    "rows": "Int64",
    "columns": "Int64",
    "spacing_z_mm": "float64",
    "spacing_y_mm": "float64",
    "spacing_x_mm": "float64",
    "z_low_mm": "float64",
    "z_high_mm": "float64",
    "box_z_low_mm": "float64",
    "box_z_high_mm": "float64",
    "box_confidence": "float64",
}


def write(path: Path, rows: Iterable[LedgerRow]) -> None:
    """Write the ledger as Parquet, sorted by source, atomically."""
    names = [field.name for field in fields(LedgerRow)]
    table = pd.DataFrame([asdict(row) for row in rows], columns=names)
    table = table.astype({name: _TYPES.get(name, "string") for name in names})
    with atomic.replacing(path) as temporary:
        table.sort_values(["source", "series_uid"]).to_parquet(temporary, index=False)
