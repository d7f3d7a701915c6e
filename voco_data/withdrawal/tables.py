"""One patient in tables of runs: count the rows, and rewrite the file without them.

A text table keeps the bytes of all other lines. A Parquet file keeps its columns and its schema.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from voco_data.withdrawal.names import PatientNames, RowRule

PATIENT, SERIES = "patient_id", "series_uid"
FILE_COLUMNS = ("path", "mask")
"""Columns with files beside the table, such as in `images.csv` of `voco pairs`."""


def count_rows(path: Path, names: PatientNames) -> int:
    """Rows of the patient in a table: Parquet, CSV, or a text with an id on each line."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            return sum(sum(mask) for _, mask in _batches(file, names))
    return sum(is_patients for _, _, is_patients in _lines(path, names))


def series_in(path: Path, names: PatientNames) -> tuple[set[str], set[str]]:
    """Series of the patient, and of others, in a table with both ids; empty sets without them.

    Raises `pa.ArrowInvalid` and `csv.Error` for a file that is no table.
    """
    own: set[str] = set()
    others: set[str] = set()
    for patient, series in _pairs(path):
        (own if patient in names.patients else others).add(series)
    return own - {""}, others


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Patient and series of the rows of a table that has both."""
    if path.suffix != ".parquet":
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            if row.get(PATIENT) and row.get(SERIES):
                yield row[PATIENT].strip(), row[SERIES].strip()
        return
    with pq.ParquetFile(path) as file:
        if {PATIENT, SERIES} <= set(file.schema_arrow.names):
            for batch in file.iter_batches(columns=[PATIENT, SERIES]):
                for row in batch.to_pylist():
                    yield str(row[PATIENT]).strip(), str(row[SERIES] or "").strip()


def write_without(path: Path, out: Path, names: PatientNames) -> None:
    """Write the table at `path` without the patient's rows to `out`."""
    if path.suffix != ".parquet":
        kept = (raw for _, raw, is_patients in _lines(path, names) if not is_patients)
        out.write_bytes("".join(kept).encode("utf-8", "surrogateescape"))
        return
    with pq.ParquetFile(path) as file, pq.ParquetWriter(out, file.schema_arrow) as writer:
        for batch, mask in _batches(file, names):
            kept_rows = batch.filter(pa.array([not is_patients for is_patients in mask]))
            writer.write_batch(_without_unused_values(kept_rows))


def listed_files(path: Path, names: PatientNames) -> Iterator[Path]:
    """The files that the patient's rows of a CSV table name, below the folder of the table."""
    for cells, _, is_patients in _lines(path, names):
        for name in (cells.get(column, "") for column in FILE_COLUMNS) if is_patients else ():
            parts = PurePosixPath(name)
            if name and not parts.is_absolute() and ".." not in parts.parts:
                yield path.parent / parts


def remove_listed_files(path: Path, names: PatientNames) -> None:
    """Remove the files that the patient's rows of a CSV table name, and then empty folders."""
    for file in listed_files(path, names):
        file.unlink(missing_ok=True)
        if file.parent != path.parent:
            with suppress(OSError):  # it holds other files, or is gone
                file.parent.rmdir()


def _batches(
    file: pq.ParquetFile, names: PatientNames
) -> Iterator[tuple[pa.RecordBatch, list[bool]]]:
    """Batches of a table, each with which of its rows are the patient's."""
    rule = RowRule(names, tuple(file.schema_arrow.names))
    of_ids = set(rule.columns_of_ids)
    for batch in file.iter_batches():
        columns = [
            column.to_pylist()
            if place in of_ids or _holds_text(column.type)
            else [None] * len(batch)
            for place, column in enumerate(batch.columns)
        ]
        rows = zip(*columns, strict=True) if columns else iter([()] * len(batch))
        yield batch, [rule.is_of_patient(row) for row in rows]


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _without_unused_values(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A dictionary column would still list the values of rows that were removed."""
    columns = [
        column.dictionary_decode().dictionary_encode().cast(column.type)
        if pa.types.is_dictionary(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _lines(path: Path, names: PatientNames) -> Iterator[tuple[dict[str, str], str, bool]]:
    """Cells, bytes as text, and whether they are the patient's, of each row of a text table."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    raw = list(io.StringIO(text, newline=""))
    if path.suffix != ".csv":
        yield from (({}, line, names.is_name(line)) for line in raw)
        return
    head = raw[0] if raw else ""
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(iter(raw), delimiter=delimiter)
    columns: list[str] | None = None
    start = 0
    for row in reader:
        line, start = "".join(raw[start : reader.line_num]), reader.line_num
        if columns is None:
            columns = [column.removeprefix("\ufeff") for column in row]
            rule = RowRule(names, tuple(columns))
            yield {}, line, False
        else:
            yield dict(zip(columns, row, strict=False)), line, rule.is_of_patient(row)
