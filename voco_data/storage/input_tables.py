"""Tables that a user names, as CSV or Parquet, read with limits on rows, columns and bytes.

A small file can hold a large table: Parquet repeats a value in a few bytes. So only the columns
that are asked for are read.
"""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from voco_data.errors import InputError
from voco_data.storage.input_files import read_bytes

MAX_ROWS = 2_000_000
"""Twice the series of the largest archives."""
MAX_TABLE_BYTES = 200 * MAX_ROWS
"""Of the file, and of the columns of a Parquet file once they are decompressed."""
MAX_COLUMNS = 10_000
_MAX_HEADER_BYTES = 4 << 20
_BLOCK_BYTES = 16 << 20
"""Largest row of a CSV file."""
_MAX_FOOTER_BYTES = 16 << 20
"""Of a Parquet file, whose footer describes each column of each group of rows."""
PARQUET = ".parquet"
_NO_VALUE = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>"]
"""Cells of CSV that are blank, where blanks are not kept as text."""
_QUOTED_ROW = re.compile(r"(got \d+): .*", re.DOTALL)


def read_table(
    path: Path, what: str, columns: Collection[str], *, blank_is_text: bool = False
) -> pd.DataFrame:
    """Some columns of a CSV file, or of a Parquet file if its name ends in `.parquet`.

    Parameters
    ----------
    path : the file.
    what : names the table in messages, such as `boxes`.
    columns : those that are read, if the table has them.
    blank_is_text : cells of a CSV file that are blank or say `NA` are text, and no missing value.

    Returns
    -------
    Cells of a CSV file are text; bytes that are no UTF-8 are surrogates, as in paths. Those of a
    Parquet file have their type.

    Raises
    ------
    InputError : one line, for what is no regular file, is no such table, has a column twice, or is
        larger than `MAX_TABLE_BYTES`, `MAX_ROWS` or `MAX_COLUMNS`.
    """
    data = read_bytes(path, what, MAX_TABLE_BYTES)
    return parse_table(data, path, what, columns, blank_is_text=blank_is_text)


def iterate_rows(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows as dictionaries, one at a time: a list of them takes a gigabyte."""
    names = list(table.columns)
    for cells in zip(*(table[name].tolist() for name in names), strict=True):
        yield dict(zip(names, cells, strict=True))


def parse_number(cell: object) -> float:
    """The number of a cell; NaN for one that is missing. ValueError, also for Python's `1_000`."""
    text = "nan" if cell is None or cell is pd.NA else str(cell)
    if "_" in text:
        raise ValueError(f"could not convert string to float: {text[:40]!r}")
    return float(text)


def parse_table(
    data: bytes, path: Path, what: str, columns: Collection[str], *, blank_is_text: bool = False
) -> pd.DataFrame:
    """The table of the bytes `data` of the file `path`; see `read_table`."""
    name = f"{what} {path}"
    try:
        if path.suffix.lower() == PARQUET:
            return _parse_parquet(data, name, columns)
        return _parse_csv(data, name, columns, blank_is_text)
    except (OSError, ValueError, OverflowError, RecursionError, pa.ArrowException) as error:
        # Arrow quotes the row, which may hold an id.
        lines = _QUOTED_ROW.sub(r"\1", str(error)).splitlines() or [type(error).__name__]
        raise InputError(
            f"{name}: expected a table in CSV or Parquet ({lines[0][:200]})"
        ) from error


def _parse_csv(
    data: bytes, name: str, columns: Collection[str], blank_is_text: bool
) -> pd.DataFrame:
    header = data[: _MAX_HEADER_BYTES + 1].split(b"\n", 1)[0]
    if len(header) > _MAX_HEADER_BYTES:
        raise InputError(f"{name}: its first line is longer than {_MAX_HEADER_BYTES:,} bytes")
    text = header.decode(errors="replace").lstrip("\ufeff").rstrip("\r")
    csv.field_size_limit(_MAX_HEADER_BYTES)
    found = next(csv.reader([text]), [])
    _check_columns(found, name)
    kept = [column for column in found if column in columns]
    reader = pyarrow.csv.open_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            # None of them would mean all of them.
            include_columns=kept or found[:1],
            column_types={column: pa.binary() for column in found},
            strings_can_be_null=not blank_is_text,
            null_values=[] if blank_is_text else _NO_VALUE,
        ),
    )
    batches, rows = [], 0
    for batch in reader:
        rows += len(batch)
        if rows > MAX_ROWS:
            raise InputError(f"{name}: expected at most {MAX_ROWS:,} rows, got more")
        batches.append(batch)
    table = pa.Table.from_batches(batches, reader.schema)
    return pd.DataFrame({column: _texts(table.column(column)) for column in kept})


def _texts(column: pa.ChunkedArray) -> pd.Series[str]:
    """Cells as text, with surrogates for bytes that are no UTF-8."""
    try:
        texts: pd.Series[str] = column.cast(pa.string()).to_pandas()
    except pa.ArrowInvalid:
        cells = (cell.as_py() for cell in column)
        decoded = [None if c is None else c.decode(errors="surrogateescape") for c in cells]
        texts = pd.Series(decoded, dtype=object)
    return texts


def _parse_parquet(data: bytes, name: str, columns: Collection[str]) -> pd.DataFrame:
    # The file ends with the size of its footer and four letters.
    (footer_bytes,) = struct.unpack("<I", data[-8:-4].rjust(4, b"\0"))
    if len(data) >= footer_bytes > _MAX_FOOTER_BYTES:
        raise InputError(f"{name}: its footer is larger than {_MAX_FOOTER_BYTES:,} bytes")
    schema = pq.read_schema(pa.BufferReader(data))
    _check_columns(schema.names, name)
    kept = [field for field in schema if field.name in columns]
    for field in kept:
        if not _is_simple(field.type):
            raise InputError(
                f"{name}: expected numbers or text in the column {field.name!r}, got {field.type}"
            )
    # A text that many rows have is kept once.
    texts = [field.name for field in kept if not _is_number(field.type)]
    file = pq.ParquetFile(
        pa.BufferReader(data), read_dictionary=texts, page_checksum_verification=True
    )
    _check_parquet_size(file.metadata, name, {field.name for field in kept})
    table: pd.DataFrame = file.read(columns=[field.name for field in kept]).to_pandas(
        ignore_metadata=True
    )
    return table.astype(dict.fromkeys(texts, object))


def _check_parquet_size(metadata: pq.FileMetaData, name: str, columns: Collection[str]) -> None:
    if metadata.num_rows > MAX_ROWS:
        raise InputError(f"{name}: expected at most {MAX_ROWS:,} rows, got {metadata.num_rows:,}")
    total = sum(
        chunk.total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema in columns
    )
    if total > MAX_TABLE_BYTES:
        raise InputError(
            f"{name}: expected columns of at most {MAX_TABLE_BYTES:,} bytes, got {total:,}"
        )


def _is_simple(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text: bool = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return is_text or _is_number(kind) or bool(pa.types.is_null(kind))


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def _check_columns(columns: list[str], name: str) -> None:
    if len(columns) > MAX_COLUMNS:
        raise InputError(f"{name}: expected at most {MAX_COLUMNS:,} columns, got {len(columns):,}")
    seen: set[str] = set()
    for column in columns:
        if column in seen and column:
            raise InputError(f"{name}: the column {column[:80]!r} comes twice; leave one")
        seen.add(column)
