"""Parquet tables that cannot lie: pages carry checksums, and what does not read is said so.

Tables are read and written in pieces: memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from voco_data.batching import batched
from voco_data.errors import StoreCorrupt, is_of_the_file
from voco_data.storage.base import Storage

PIECE = 10_000
"""Rows of a narrow table that are in memory at once."""


@contextmanager
def open_writer(storage: Storage, key: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a table in pieces; it appears when the block ends well, whole or not at all.

    Without statistics: no checksum covers them, and a tool that filters by them would believe them.
    """
    with (
        storage.replacing(key) as path,
        pq.ParquetWriter(path, schema, write_page_checksum=True, write_statistics=False) as out,
    ):
        yield out


def write_table(
    storage: Storage, key: str, schema: pa.Schema, rows: Iterable[Sequence[Any]]
) -> None:
    """Write a table from its lines, tuples in the order of the schema."""
    with open_writer(storage, key, schema) as out:
        for batch in batched(rows, PIECE):
            columns = [list(column) for column in zip(*batch, strict=True)]
            out.write_batch(pa.record_batch(columns, schema=schema))


def iter_batches(
    storage: Storage, key: str, columns: Sequence[str], rows: int = PIECE
) -> Iterator[pa.RecordBatch]:
    """These columns of a table, in pieces of `rows`; none where there is no such object.

    Raises StoreCorrupt where it is damaged, or lacks a column.
    """
    if storage.size(key) is None:
        return
    with (
        storage.fetched(key) as path,
        translate_arrow_errors(storage, key),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        _check_columns(storage, key, file, columns)
        for batch in file.iter_batches(rows, columns=list(columns)):
            if len(batch):
                yield batch.select(list(columns))


def open_mapped(storage: Storage, key: str, columns: Collection[str]) -> pq.ParquetFile | None:
    """A table that is read when asked for, as it is now; None where there is no such object.

    Raises StoreCorrupt where it is damaged, or lacks a column.
    """
    if storage.size(key) is None:
        return None
    with storage.fetched(key) as path, translate_arrow_errors(storage, key):
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        _check_columns(storage, key, file, columns)
        return file


@contextmanager
def translate_arrow_errors(storage: Storage, key: str) -> Iterator[None]:
    """What Arrow raises of a table becomes StoreCorrupt: a damaged footer may raise anything.

    A lack of descriptors, of memory or of leave to read says nothing of the table, and stays so.
    """
    try:
        yield
    except (StoreCorrupt, MemoryError):
        raise
    except Exception as error:
        # Arrow's own complaints of the bytes have no number.
        if isinstance(error, OSError) and error.errno is not None and not is_of_the_file(error):
            raise
        raise StoreCorrupt(
            f"{storage}/{key}: the table cannot be read ({type(error).__name__})"
        ) from error


def _check_columns(
    storage: Storage, key: str, file: pq.ParquetFile, columns: Collection[str]
) -> None:
    missing = sorted(set(columns) - set(file.schema_arrow.names))
    if missing:
        raise StoreCorrupt(f"{storage}/{key}: the table lacks the columns {missing}")


def iter_rows(storage: Storage, key: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """A table line by line, tuples in the order of `columns`. Raises StoreCorrupt."""
    for batch in iter_batches(storage, key, columns):
        yield from zip(*(column.to_pylist() for column in batch), strict=True)


def count_rows(storage: Storage, key: str) -> int:
    """How many lines; 0 where there is no such object. Raises StoreCorrupt. Reads no line."""
    if storage.size(key) is None:
        return 0
    with storage.fetched(key) as path, translate_arrow_errors(storage, key):
        return int(pq.read_metadata(path).num_rows)
