"""Stamps that the objects of each row had when their bytes were last verified.

A stamp is a text that changes when an object is written again. A row whose stamps have not changed
needs no new check, so a run over a large store asks for the stamps of all objects, and reads only
those that were written or touched since. If the table is lost, every row is checked again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import tee

import pyarrow as pa
import xxhash

from voco_data.errors import StoreCorrupt
from voco_data.storage import Storage, parquet, scratch_db
from voco_data.store.keys import CHUNKS, RECORDS, VERIFIED, chunk_key, record_key

log = logging.getLogger(__name__)

_COLUMNS = pa.schema([("row", pa.int64()), ("stamp", pa.string())])
_TABLE = "CREATE TABLE stamps (row INTEGER PRIMARY KEY, stamp TEXT);"


class VerifiedStamps:
    """The stamps of one store's rows, on disk while a run uses them."""

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
