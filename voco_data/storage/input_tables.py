"""Tables that a user names, as CSV or Parquet, read with limits on rows and columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from voco_data.errors import InputError
from voco_data.storage.input_files import read_bytes

MAX_TABLE_BYTES = 2 << 30
MAX_ROWS = 2_000_000
"""Twice the series of the largest archives."""
MAX_COLUMNS = 10_000
_MAX_HEADER_BYTES = 4 << 20
PARQUET = ".parquet"


def read_table(path: Path, what: str, **csv_options: Any) -> pd.DataFrame:
    """The table of a CSV file, or of a Parquet file if its name ends in `.parquet`.

    Parameters
    ----------
    path : the file.
    what : names the table in messages, such as `boxes`.
    **csv_options : as `pandas.read_csv` takes them.

    Raises
    ------
    InputError : one line, for what is no regular file, is no such table, has a column twice, or is
        larger than `MAX_TABLE_BYTES`, `MAX_ROWS` or `MAX_COLUMNS`.
    """
    return parse_table(read_bytes(path, what, MAX_TABLE_BYTES), path, what, **csv_options)


def parse_table(data: bytes, path: Path, what: str, **csv_options: Any) -> pd.DataFrame:
    """The table of the bytes `data` of the file `path`; see `read_table`."""
    parse = _parse_parquet if path.suffix.lower() == PARQUET else _parse_csv
    try:
        return parse(data, f"{what} {path}", csv_options)
    except (OSError, ValueError, OverflowError, RecursionError, pa.ArrowException) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(
            f"{what} {path}: expected a table in CSV or Parquet ({lines[0][:200]})"
        ) from error


def _parse_csv(data: bytes, name: str, options: dict[str, Any]) -> pd.DataFrame:
    header = data[: _MAX_HEADER_BYTES + 1].split(b"\n", 1)[0]
    if len(header) > _MAX_HEADER_BYTES:
        raise InputError(f"{name}: its first line is longer than {_MAX_HEADER_BYTES:,} bytes")
    text = header.decode(errors="replace").lstrip("\ufeff").rstrip("\r")
    csv.field_size_limit(_MAX_HEADER_BYTES)
    _check_columns(next(csv.reader([text]), []), name)
    table: pd.DataFrame = pd.read_csv(io.BytesIO(data), nrows=MAX_ROWS + 1, **options)
    if len(table) > MAX_ROWS:
        raise InputError(f"{name}: expected at most {MAX_ROWS:,} rows, got more")
    return table


def _parse_parquet(data: bytes, name: str, options: dict[str, Any]) -> pd.DataFrame:  # noqa: ARG001
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    _check_columns(file.schema_arrow.names, name)
    if file.metadata.num_rows > MAX_ROWS:
        raise InputError(
            f"{name}: expected at most {MAX_ROWS:,} rows, got {file.metadata.num_rows:,}"
        )
    table: pd.DataFrame = file.read().to_pandas()
    return table


def _check_columns(columns: list[str], name: str) -> None:
    if len(columns) > MAX_COLUMNS:
        raise InputError(f"{name}: expected at most {MAX_COLUMNS:,} columns, got {len(columns):,}")
    seen: set[str] = set()
    for column in columns:
        if column in seen and column:
            raise InputError(f"{name}: the column {column[:80]!r} comes twice; leave one")
        seen.add(column)
