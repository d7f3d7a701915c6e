"""Check that the bytes of a row are those that were committed, and remember which were checked.

The record is the truth about its row: a row is intact if its record reads and its chunk has the
checksum that the record gives. The catalogue repeats what records say.

A stamp is a text that changes when an object is written again. A row whose stamps have not changed
since its bytes were verified needs no new check. So a run over a large store asks for the stamps of
all objects, and reads only those that were written or touched since.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import tee

import pyarrow as pa
import xxhash

from voco_data.batching import batched
from voco_data.errors import StoreCorrupt, VocoError
from voco_data.storage import ReadableStorage, Storage, parquet, scratch_db
from voco_data.store import catalogue
from voco_data.store.catalogue import Line
from voco_data.store.keys import CHUNKS, RECORDS, VERIFIED, chunk_key, record_key
from voco_data.store.organ_maps import check_organ_maps
from voco_data.store.reader import Store
from voco_data.store.record import Record, read_record, rows_with_record
from voco_data.store.spec import StoreSpec

log = logging.getLogger(__name__)

_THREADS = 8
"""Rows that are checked at once. Reads wait for the disk, and hashing releases the GIL."""
_ROWS_QUEUED = 10_000
"""Rows that wait for a thread; more would only take memory."""
_COLUMNS = pa.schema([("row", pa.int64()), ("stamp", pa.string())])
_TABLE = "CREATE TABLE stamps (row INTEGER PRIMARY KEY, stamp TEXT);"


@dataclass(frozen=True, slots=True)
class RowCheck:
    """The result of checking one row."""

    row: int
    damage: str = ""
    """What is wrong; empty for an intact row."""
    record: Record | None = None
    """The record of an intact row."""


def check_rows(store: ReadableStorage, spec: StoreSpec, rows: Iterable[int]) -> Iterator[RowCheck]:
    """Read and hash record and chunk of every row, several at a time, in the order of `rows`."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for batch in batched(rows, _ROWS_QUEUED):
            yield from threads.map(lambda row: check_row(store, spec, row), batch)


def check_row(store: ReadableStorage, spec: StoreSpec, row: int) -> RowCheck:
    """Read and hash record and chunk of one row.

    Raises VocoError if they cannot be read for another reason than damage.
    """
    try:
        record = read_record(store, row)
        if record is None:
            return RowCheck(row, "its record is missing")
        if record.row != row or record.spec_digest != spec.digest:
            return RowCheck(row, "its record is that of another row or store")
        check_organ_maps(record, spec.grid)
        Store.from_records(store, spec, [record]).read(row)
    except StoreCorrupt as error:
        return RowCheck(row, str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        raise VocoError(
            f"{store}: row {row} cannot be read ({reason}); this is no damage of the store: "
            "remove the cause, then run again"
        ) from error
    return RowCheck(row, record=record)


def differing_columns(record: Record, line: Line) -> list[str]:
    """Names of the columns in which a line of the catalogue differs from its record."""
    expected = catalogue.line_from_record(record)
    return [name for name, value in line.items() if expected[name] != value]


def readable_records(store: ReadableStorage) -> Iterator[Record]:
    """Iterate over the records that can be read, in no order, to rebuild a lost catalogue."""
    for row in rows_with_record(store):
        try:
            record = read_record(store, row)
        except StoreCorrupt as error:
            log.warning("%s; its series is read again", error)
        else:
            if record is not None:
                yield record


class VerifiedStamps:
    """The stamps that the rows of a store had when their bytes were last verified.

    They are on disk while a run uses them. If their table is lost, every row is checked again.
    """

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._table = scratch_db.open_scratch_db(_TABLE)
        self._is_changed = False
        try:
            self._table.executemany(
                "INSERT OR REPLACE INTO stamps VALUES (?, ?)",
                parquet.iter_rows(store, VERIFIED, _COLUMNS.names),
            )
        except StoreCorrupt as error:
            log.warning("%s; every volume is checked", error)
            self._table.execute("DELETE FROM stamps")

    def close(self) -> None:
        """Close the table, which is in a temporary file."""
        self._table.close()

    def compare(self, rows: Iterable[int]) -> Iterator[tuple[int, str, bool]]:
        """Yield each row, its current stamp, and whether it was touched since it was verified."""
        for row, stamp in self._current_stamps(rows):
            verified = self._table.execute(
                "SELECT stamp FROM stamps WHERE row = ?", (row,)
            ).fetchone()
            yield row, stamp, not stamp or verified != (stamp,)

    def set(self, row: int, stamp: str) -> None:
        """Record that the bytes of a row were verified when its objects had this stamp."""
        if stamp:
            self._table.execute("INSERT OR REPLACE INTO stamps VALUES (?, ?)", (row, stamp))
            self._is_changed = True

    def remove(self, rows: Iterable[int]) -> None:
        """Remove the stamps of these rows."""
        for row in rows:
            self._table.execute("DELETE FROM stamps WHERE row = ?", (row,))
            self._is_changed = True

    def save(self) -> None:
        """Write the stamps, atomically, if any has changed."""
        if self._is_changed:
            stamps = self._table.execute("SELECT row, stamp FROM stamps ORDER BY row")
            parquet.write_table(self._store, VERIFIED, _COLUMNS, stamps)
            self._is_changed = False

    def _current_stamps(self, rows: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Yield each row, and one hash of the stamps of its chunk and its record.

        The hash is "" if one of them is missing.
        """
        rows, rows_of_chunks, rows_of_records = tee(rows, 3)
        chunk_stamps = self._store.stamps(CHUNKS, map(chunk_key, rows_of_chunks))
        record_stamps = self._store.stamps(RECORDS, map(record_key, rows_of_records))
        for row, chunk, record in zip(rows, chunk_stamps, record_stamps, strict=True):
            is_complete = chunk and record
            text = f"{chunk}/{record}".encode()
            yield row, xxhash.xxh3_128_hexdigest(text) if is_complete else ""
