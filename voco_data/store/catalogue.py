"""The catalogue: the records of a store in one table, which can be rebuilt from the records.

It is read and written in batches, so that memory does not grow with the store.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from voco_data.batching import batched
from voco_data.storage import ReadableStorage, Storage, parquet
from voco_data.store.keys import CATALOGUE
from voco_data.store.record import Record
from voco_data.volumes import nearest_axes

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
"""Columns of the catalogue and their pandas types: one line a stored series, sorted by row."""

_ARROW = {"int64": pa.int64(), "string": pa.string(), "float64": pa.float64()}
SCHEMA = pa.schema((name, _ARROW.get(kind, pa.list_(pa.int32()))) for name, kind in COLUMNS.items())
_LINES_PER_BATCH = 500
"""Lines that are in memory at once, and lines of a row group of the file."""

Line = dict[str, Any]
"""One line of the catalogue, by column."""


def line_from_record(record: Record) -> Line:
    """Make the line of the catalogue for a record."""
    line: Line = {name: getattr(record, name) for name in COLUMNS if hasattr(record, name)}
    # Along the patient's axes, as the spacings: any axis of the scanner may be nearest to z.
    nearest, _ = nearest_axes(record.axes)
    line |= {
        name: record.shape[index]
        for name, index in zip(("n_slices", "rows", "columns"), nearest, strict=True)
    }
    for axis, spacing, low, high in zip(
        "zyx", record.spacing_mm, record.box_low_mm, record.box_high_mm, strict=True
    ):
        line[f"spacing_{axis}_mm"] = spacing
        line[f"box_{axis}_low_mm"] = low
        line[f"box_{axis}_high_mm"] = high
    step = record.spacing_mm[0]
    line["z_low_mm"] = record.canonical_first_mm[0] - step / 2
    line["z_high_mm"] = line["z_low_mm"] + record.canonical_shape[0] * step
    line["box_start_z"] = record.box_start[0]
    line["box_stop_z"] = record.box_stop[0]
    line["instance_numbers"] = list(record.instance_numbers)
    line["flags"] = " ".join(record.flags)
    return line


def iter_batches(
    store: ReadableStorage, columns: Sequence[str] = tuple(COLUMNS)
) -> Iterator[pa.RecordBatch]:
    """Iterate over the catalogue's lines in batches, sorted by row; none if no run has finished.

    Raises StoreCorrupt if it cannot be read.
    """
    return parquet.iter_batches(store, CATALOGUE, columns, _LINES_PER_BATCH)


def count_lines(store: ReadableStorage) -> int:
    """Number of lines, from the footer; 0 if no run has finished. Raises StoreCorrupt."""
    return parquet.count_rows(store, CATALOGUE)


def read(store: ReadableStorage) -> pd.DataFrame:
    """Read the whole catalogue as a table; empty if no run has finished."""
    return Snapshot(store).table()


class Snapshot:
    """The catalogue at one moment; columns are read when asked for.

    The file stays mapped, so a run that replaces it does not change what is read.
    """

    def __init__(self, store: ReadableStorage) -> None:
        self._store = store
        self._file = parquet.open_mapped(store, CATALOGUE, COLUMNS)

    def read(self, columns: Collection[str] = tuple(COLUMNS)) -> pa.Table:
        """These columns of all lines, sorted by row. Raises StoreCorrupt if they cannot be read."""
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        if self._file is None:
            return schema.empty_table()
        with parquet.translate_arrow_errors(self._store, CATALOGUE):
            return self._file.read(columns=list(columns), use_threads=False).cast(schema)

    def table(self) -> pd.DataFrame:
        """All columns, as pandas."""
        return _to_pandas(self.read())


class RecordTable:
    """A catalogue of some records, in memory. Has the methods of `Snapshot`."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._table = pa.Table.from_pylist([line_from_record(record) for record in records], SCHEMA)

    def read(self, columns: Collection[str] = tuple(COLUMNS)) -> pa.Table:
        """These columns of all lines, in the order of the records."""
        return self._table.select(list(columns))

    def table(self) -> pd.DataFrame:
        """All columns, as pandas."""
        return _to_pandas(self._table)


class ChosenRows:
    """Some rows of another catalogue. Has the methods of `Snapshot`."""

    def __init__(self, lines: Snapshot | RecordTable | ChosenRows, rows: Collection[int]) -> None:
        self._lines = lines
        self._rows = pa.array(sorted(rows), pa.int64())

    def read(self, columns: Collection[str] = tuple(COLUMNS)) -> pa.Table:
        """These columns of the chosen lines, in the order of the other catalogue."""
        table = self._lines.read({**dict.fromkeys(columns), "row": None})
        chosen = table.filter(pc.is_in(table["row"], self._rows))
        return chosen.select(list(columns))

    def table(self) -> pd.DataFrame:
        """All columns, as pandas."""
        return _to_pandas(self.read())


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame.astype(COLUMNS)


def rewrite(
    store: Storage,
    removed: Collection[int],
    added: Iterable[Line],
    *,
    from_scratch: bool = False,
) -> None:
    """Replace the catalogue, atomically: without the rows `removed`, with the lines `added`.

    `added` is sorted by row and replaces lines of the same rows. `from_scratch` leaves out what
    the catalogue has now, without reading it.
    """
    remaining = _SortedLines(added)
    with parquet.open_writer(store, CATALOGUE, SCHEMA) as writer:
        for batch in () if from_scratch else iter_batches(store):
            inserted = remaining.take_up_to(batch["row"][-1].as_py())
            replaced = pa.array([*removed, *(line["row"] for line in inserted)], pa.int64())
            kept = pa.Table.from_batches([batch], SCHEMA).filter(
                pc.invert(pc.is_in(pa.chunked_array([batch["row"]]), replaced))
            )
            merged = pa.concat_tables([kept, pa.Table.from_pylist(inserted, SCHEMA)])
            writer.write_table(merged.sort_by("row"))
        for lines in batched(remaining, _LINES_PER_BATCH):
            writer.write_table(pa.Table.from_pylist(list(lines), SCHEMA))


class _SortedLines:
    """An iterator over lines sorted by row that can also stop at a row."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self._next: Line | None = next(self._lines, None)

    def __iter__(self) -> _SortedLines:
        return self

    def __next__(self) -> Line:
        if self._next is None:
            raise StopIteration
        line, self._next = self._next, next(self._lines, None)
        return line

    def take_up_to(self, row: int) -> list[Line]:
        """The next lines whose row is at most `row`."""
        lines = []
        while self._next is not None and self._next["row"] <= row:
            lines.append(next(self))
        return lines


def line_from_json(text: str) -> Line:
    """Parse a line that `line_to_json` made."""
    line: Line = json.loads(text)
    return line


def line_to_json(line: Line) -> str:
    """Format a line as JSON text."""
    return json.dumps(line, separators=(",", ":"))
