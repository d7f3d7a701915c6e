"""The catalogue: all records of a store in one table, rebuilt from them at any time.

It is read and written in pieces, so that memory does not grow with the store.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from voco_data.storage import parquet
from voco_data.storage.base import Storage
from voco_data.store.record import Record

KEY = "volumes/catalogue.parquet"
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
    "z_low_mm": "float64",
    "z_high_mm": "float64",
    "box_method": "string",
    "box_confidence": "float64",
    "hu_p5": "float64",
    "hu_median": "float64",
    "hu_p95": "float64",
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

_ARROW = {"int64": pa.int64(), "string": pa.string(), "float64": pa.float64()}
SCHEMA = pa.schema((name, _ARROW.get(kind, pa.list_(pa.int32()))) for name, kind in COLUMNS.items())
_ROWS_A_GROUP = 500

Line = dict[str, Any]


def line(record: Record) -> Line:
    """One record as a flat line of the catalogue."""
    flat: Line = {name: getattr(record, name) for name in COLUMNS if hasattr(record, name)}
    flat |= dict(zip(("n_slices", "rows", "columns"), record.shape, strict=True))
    for axis, spacing, low, high in zip(
        "zyx", record.spacing_mm, record.box_low_mm, record.box_high_mm, strict=True
    ):
        flat[f"spacing_{axis}_mm"] = spacing
        flat[f"box_{axis}_low_mm"] = low
        flat[f"box_{axis}_high_mm"] = high
    step = record.spacing_mm[0]
    flat["z_low_mm"] = record.canonical_first_mm[0] - step / 2
    flat["z_high_mm"] = flat["z_low_mm"] + record.canonical_shape[0] * step
    flat["box_start_z"], flat["box_stop_z"] = record.box_start[0], record.box_stop[0]
    flat["instance_numbers"] = list(record.instance_numbers)
    flat["flags"] = " ".join(record.flags)
    return flat


def batches(store: Storage, columns: Sequence[str] = tuple(COLUMNS)) -> Iterator[pa.RecordBatch]:
    """The catalogue's lines in pieces, sorted by row; none where no run has finished yet.

    Raises StoreCorrupt if it cannot be read.
    """
    return parquet.iter_batches(store, KEY, columns, _ROWS_A_GROUP)


def count(store: Storage) -> int:
    """How many lines; 0 where no run has finished yet. Raises StoreCorrupt. Reads no line."""
    return parquet.count_rows(store, KEY)


def read(store: Storage) -> pd.DataFrame:
    """The whole catalogue as a table; empty where no run has finished yet."""
    return Snapshot(store).table()


class Snapshot:
    """The catalogue as it is now; its columns are read when asked for.

    The file stays mapped, so a run that replaces it meanwhile does not change what is read.
    """

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._file = parquet.open_mapped(store, KEY, COLUMNS)

    def read(self, columns: Collection[str] = tuple(COLUMNS)) -> pa.Table:
        """Some columns, every line, sorted by row. Raises StoreCorrupt if they cannot be read."""
        wanted = pa.schema([SCHEMA.field(name) for name in columns])
        if self._file is None:
            return wanted.empty_table()
        with parquet.translate_arrow_errors(self._store, KEY):
            return self._file.read(columns=list(columns), use_threads=False).cast(wanted)

    def table(self) -> pd.DataFrame:
        """All columns, for pandas."""
        return _for_pandas(self.read())


class Lines:
    """Lines of records, in the place of a catalogue."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._table = pa.Table.from_pylist([line(record) for record in records], SCHEMA)

    def read(self, columns: Collection[str] = tuple(COLUMNS)) -> pa.Table:
        """Some columns of every line."""
        return self._table.select(list(columns))

    def table(self) -> pd.DataFrame:
        """All columns, for pandas."""
        return _for_pandas(self._table)


def _for_pandas(table: pa.Table) -> pd.DataFrame:
    found: pd.DataFrame = table.to_pandas()
    return found.astype(COLUMNS)


def rewrite(
    store: Storage, gone: Collection[int], fresh: Iterable[Line], *, anew: bool = False
) -> None:
    """Replace the catalogue, atomically: without the rows `gone`, with the lines `fresh`.

    `fresh` comes sorted by row; its rows replace those of the same number. `anew` leaves what is
    there unread.
    """
    lines = _Pieces(fresh)
    with parquet.open_writer(store, KEY, SCHEMA) as writer:
        for batch in () if anew else batches(store):
            last = batch["row"][-1].as_py()
            added = lines.up_to(last)
            drop = pa.array([*gone, *(item["row"] for item in added)], pa.int64())
            kept = pa.Table.from_batches([batch], SCHEMA).filter(
                pc.invert(pc.is_in(pa.chunked_array([batch["row"]]), drop))
            )
            merged = pa.concat_tables([kept, pa.Table.from_pylist(added, SCHEMA)])
            writer.write_table(merged.sort_by("row"))
        while rest := lines.next():
            writer.write_table(pa.Table.from_pylist(rest, SCHEMA))


class _Pieces:
    """Sorted lines, taken a few at a time."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self._first: Line | None = next(self._lines, None)

    def up_to(self, row: int) -> list[Line]:
        found = []
        while self._first is not None and self._first["row"] <= row:
            found.append(self._first)
            self._first = next(self._lines, None)
        return found

    def next(self) -> list[Line]:
        if self._first is None:
            return []
        found = [self._first, *islice(self._lines, _ROWS_A_GROUP - 1)]
        self._first = next(self._lines, None)
        return found


def from_json(text: str) -> Line:
    """A line as `to_json` keeps it."""
    found: Line = json.loads(text)
    return found


def to_json(flat: Line) -> str:
    """A line as text."""
    return json.dumps(flat, separators=(",", ":"))
