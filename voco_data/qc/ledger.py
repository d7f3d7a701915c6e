"""The ledger of a run: a row for each series, and for each file that belongs to none."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from voco_data.batching import batched
from voco_data.errors import StoreCorrupt
from voco_data.storage import (
    ReadableStorage,
    Storage,
    escape_undecodable,
    parquet,
    scratch_tables,
)

log = logging.getLogger(__name__)

KEY = "ledger.parquet"

Status = Literal["stored", "cached", "refused", "skipped", "gone", "pruned"]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One row. Ids and source are pseudonyms where the run uses them; lengths in mm, LPS."""

    kind: Literal["series", "file"]
    source: str
    series_uid: str
    patient_id: str
    status: Status
    reason: str = ""
    """A reason of voco_data.reasons if the row is refused or skipped."""
    detail: str = ""
    n_slices: int | None = None
    rows: int | None = None
    columns: int | None = None
    spacing_z_mm: float | None = None
    spacing_y_mm: float | None = None
    spacing_x_mm: float | None = None
    z_low_mm: float | None = None
    """Lowest z of the scan."""
    z_high_mm: float | None = None
    """Highest z of the scan."""
    transfer_syntax: str = ""
    box_method: str = ""
    box_z_low_mm: float | None = None
    box_z_high_mm: float | None = None
    box_confidence: float | None = None
    hu_p5: float | None = None
    hu_median: float | None = None
    hu_p95: float | None = None
    """5th, 50th and 95th percentile of the HU of tissue inside the box."""
    flags: str = ""
    """Separated by blanks."""
    input_digest: str = ""
    duplicate_of: str = ""
    """Id of another series with equal content, if the row is flagged `duplicate`.

    `patient/series`, or `patient/study/series`, if both have one series id.
    """
    study_uid: str = ""
    """With `patient_id` and `series_uid` it identifies the series."""


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
    "hu_p5": "float64",
    "hu_median": "float64",
    "hu_p95": "float64",
}
_NAMES = [field.name for field in fields(LedgerRow)]
_ROWS_PER_GROUP = 2_000
_DIGEST, _ARCHIVE, _TIME = "voco.digest", "voco.archive", "voco.time_ns"
"""Names in the metadata of the file."""


@dataclass(frozen=True, slots=True)
class CollectedRows:
    """The rows of a run in a scratch database."""

    digest: str
    """Of the rows, whatever their order and whether this run stored a series or an earlier one."""
    scratch: sqlite3.Connection

    def write(self, run: Storage, archive: str = "") -> None:
        """Write the ledger of a run as Parquet, sorted by source, atomically.

        The rows are written in groups: memory does not grow with their number. The file's metadata
        has the digest and, if it is given, the id of the archive.
        """
        schema = _schema()
        lines = self.scratch.execute("SELECT line FROM lines ORDER BY source, series_uid, rowid")
        with run.replacing(KEY) as temporary, _writer(temporary, schema) as writer:
            for group in batched((json.loads(line) for (line,) in lines), _ROWS_PER_GROUP):
                columns = [list(column) for column in zip(*group, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
            values = {_DIGEST: self.digest, _ARCHIVE: archive, _TIME: str(time.time_ns())}
            writer.add_key_value_metadata(values)


@contextmanager
def collect(rows: Iterable[LedgerRow]) -> Iterator[CollectedRows]:
    """Sort the rows of a run in a scratch database, for as long as the block runs."""
    total = 0

    def lines() -> Iterator[tuple[str, str, str]]:
        nonlocal total
        for row in rows:
            source, series_uid, line = _scratch_row(row)
            known = replace(row, status="cached") if row.status == "stored" else row
            total += xxhash.xxh3_128_intdigest(_scratch_row(known)[2].encode())
            yield source, series_uid, line

    with scratch_tables("CREATE TABLE lines (source TEXT, series_uid TEXT, line TEXT);") as scratch:
        scratch.executemany("INSERT INTO lines VALUES (?, ?, ?)", lines())
        yield CollectedRows(f"{total % 2**128:032x}", scratch)


def write(run: Storage, rows: Iterable[LedgerRow]) -> None:
    """Write the ledger of a run, as `CollectedRows.write`."""
    with collect(rows) as collected:
        collected.write(run)


def read_rows(run: ReadableStorage, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of the rows of a ledger. One that is missing or damaged has none.

    A damaged one is named in a warning, so that it does not stop what looks at many.
    """
    try:
        batches = list(parquet.iter_known(run, KEY, columns))
    except StoreCorrupt as error:
        log.warning("%s; it is left out", error)
        return
    for batch in batches:
        yield from batch.to_pylist()


@dataclass(frozen=True, slots=True)
class LedgerStamp:
    """What the metadata of a ledger say; empty where it does not have them."""

    digest: str = ""
    """Of its rows, `CollectedRows.digest`."""
    archive: str = ""
    time_ns: int = 0
    """When it was written: names of runs have seconds only."""


def read_stamp(run: ReadableStorage) -> LedgerStamp:
    """The stamp of a ledger; an empty one if there is none, or if it cannot be read."""
    if run.size(KEY) is None:
        return LedgerStamp()
    try:
        metadata = parquet.read_metadata(run, KEY)
    except StoreCorrupt:
        return LedgerStamp()
    return LedgerStamp(
        metadata.get(_DIGEST.encode(), b"").decode(),
        metadata.get(_ARCHIVE.encode(), b"").decode(errors="surrogateescape"),
        int(metadata.get(_TIME.encode(), b"0")),
    )


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a ledger, with checksums, so that a bad sector is no other row."""
    return pq.ParquetWriter(path, schema, write_page_checksum=True)


def _scratch_row(row: LedgerRow) -> tuple[str, str, str]:
    """Source and series id to sort by, and all values as JSON."""
    values = [getattr(row, name) for name in _NAMES]
    values = [escape_undecodable(value) if isinstance(value, str) else value for value in values]
    return (escape_undecodable(row.source), escape_undecodable(row.series_uid), json.dumps(values))


def _schema() -> pa.Schema:
    """The columns in Arrow's types, with pandas' own in the metadata, for pandas to read back."""
    table = pd.DataFrame(columns=_NAMES)
    table = table.astype({name: _TYPES.get(name, "string") for name in _NAMES})
    return pa.Schema.from_pandas(table, preserve_index=False)
