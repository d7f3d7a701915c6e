"""Parquet tables with checksums, read and written in batches, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from voco_data.batching import batched
from voco_data.errors import InputError, StoreCorrupt, is_file_error
from voco_data.storage.base import ReadableStorage, Storage

ROWS_PER_BATCH = 10_000
"""Rows of a narrow table that are in memory at once."""


@contextmanager
def open_writer(storage: Storage, key: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a table in batches; it appears when the block ends without an exception.

    Page checksums do not cover statistics, and a reader that filters by damaged ones would skip
    rows. So none are written.
    """
    with (
        storage.replacing(key) as path,
        pq.ParquetWriter(path, schema, write_page_checksum=True, write_statistics=False) as writer,
    ):
        yield writer


def write_table(
    storage: Storage, key: str, schema: pa.Schema, rows: Iterable[Sequence[Any]]
) -> None:
    """Write a table of rows whose values are in the order of the schema.

    An exception leaves the table as it was.
    """
    with open_writer(storage, key, schema) as writer:
        for batch in batched(rows, ROWS_PER_BATCH):
            columns = [list(column) for column in zip(*batch, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def iter_batches(
    storage: ReadableStorage, key: str, columns: Sequence[str], rows: int = ROWS_PER_BATCH
) -> Iterator[pa.RecordBatch]:
    """Some columns of a table, in batches of at most `rows` rows; none if it does not exist.

    Raises StoreCorrupt if the table is damaged or lacks a column.
    """
    if storage.size(key) is None:
        return
    with _open_table(storage, key) as file:
        _check_columns(storage, key, file, columns)
        yield from _batches(file, columns, rows)


def iter_known(
    storage: ReadableStorage,
    key: str,
    columns: Sequence[str] | None = None,
    rows: int = ROWS_PER_BATCH,
) -> Iterator[pa.RecordBatch]:
    """As `iter_batches`, for tables of other versions: columns that a table lacks are left out.

    All columns of the table if `columns` is None. Raises StoreCorrupt if the table is damaged.
    """
    if storage.size(key) is None:
        return
    with _open_table(storage, key) as file:
        names = file.schema_arrow.names
        known = names if columns is None else [name for name in columns if name in names]
        yield from _batches(file, known, rows)


@contextmanager
def _open_table(storage: ReadableStorage, key: str) -> Iterator[pq.ParquetFile]:
    with (
        storage.as_file(key) as path,
        translate_arrow_errors(storage, key),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        yield file


def _batches(file: pq.ParquetFile, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in file.iter_batches(rows, columns=list(columns)):
        if len(batch):
            yield batch.select(list(columns))


def read_schema(storage: ReadableStorage, key: str) -> pa.Schema:
    """The columns of a table. Raises StoreCorrupt if it is damaged."""
    with _open_table(storage, key) as file:
        return file.schema_arrow


def read_metadata(storage: ReadableStorage, key: str) -> dict[bytes, bytes]:
    """The keys and values that the writer of a table has added. StoreCorrupt if it is damaged."""
    with _open_table(storage, key) as file:
        return dict(file.metadata.metadata or {})


def read_frame(path: Path, what: str, advice: str = "restore it") -> pd.DataFrame:
    """A small table of a run, whole. `what` names it, such as `the labels of a fine-tuning run`.

    `advice` ends the line of an error. Raises InputError if it is not there, or is damaged.
    """
    try:
        with translate_arrow_errors(path.parent, path.name):
            return pd.read_parquet(path)
    except (OSError, StoreCorrupt) as error:
        cause = error.__cause__ if isinstance(error, StoreCorrupt) else error
        reason = getattr(cause, "strerror", None) or type(cause).__name__
        if isinstance(cause, FileNotFoundError):  # Arrow's has a long text of its own
            reason = "no such file"
        raise InputError(f"{path}: expected {what}, cannot read it ({reason}); {advice}") from error


def open_mapped(
    storage: ReadableStorage, key: str, columns: Collection[str]
) -> pq.ParquetFile | None:
    """Map the current version of a table into memory; None if it does not exist.

    Raises StoreCorrupt if the table is damaged or lacks a column.
    """
    if storage.size(key) is None:
        return None
    with storage.as_file(key) as path, translate_arrow_errors(storage, key):
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        _check_columns(storage, key, file, columns)
        return file


@contextmanager
def translate_arrow_errors(storage: object, key: str) -> Iterator[None]:
    """Turn errors of Arrow about a table into StoreCorrupt: a damaged footer may raise any error.

    Errors of this machine (no descriptor or memory left, no permission) pass through.
    """
    try:
        yield
    except (StoreCorrupt, MemoryError):
        raise
    except Exception as error:
        # An OSError that Arrow raises about the content of a file has no number.
        if isinstance(error, OSError) and error.errno is not None and not is_file_error(error):
            raise
        raise StoreCorrupt(
            f"{storage}/{key}: the table cannot be read ({type(error).__name__})"
        ) from error


def iter_rows(
    storage: ReadableStorage, key: str, columns: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Rows of a table, as tuples in the order of `columns`. Raises StoreCorrupt."""
    for batch in iter_batches(storage, key, columns):
        yield from zip(*(column.to_pylist() for column in batch), strict=True)


def count_rows(storage: ReadableStorage, key: str) -> int:
    """Number of rows, from the footer; 0 if the table does not exist. Raises StoreCorrupt."""
    if storage.size(key) is None:
        return 0
    with storage.as_file(key) as path, translate_arrow_errors(storage, key):
        return int(pq.read_metadata(path).num_rows)


def _check_columns(
    storage: ReadableStorage, key: str, file: pq.ParquetFile, columns: Collection[str]
) -> None:
    missing = sorted(set(columns) - set(file.schema_arrow.names))
    if missing:
        raise StoreCorrupt(f"{storage}/{key}: the table lacks the columns {missing}")
