"""Stamps that the objects of each row had when their bytes were last verified.

A stamp is a text that changes when an object is written again. A row whose stamps are the same
needs no new check, so a run over a large store looks at each object once and reads only those that
were touched since. Without the table every row is checked again; nothing else is lost.
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
        self._changed = False
        try:
            self._table.executemany(
                "INSERT OR REPLACE INTO stamps VALUES (?, ?)",
                parquet.iter_rows(store, VERIFIED, _COLUMNS.names),
            )
        except StoreCorrupt as error:
            log.warning("%s; every volume is checked", error)
            self._table.execute("DELETE FROM stamps")

    def close(self) -> None:
        """Free the disk space."""
        self._table.close()

    def compare(self, rows: Iterable[int]) -> Iterator[tuple[int, str, bool]]:
        """Row, its stamp now, and whether the row was touched since it was last verified."""
        for row, stamp in self._current_stamps(rows):
            found = self._table.execute("SELECT stamp FROM stamps WHERE row = ?", (row,)).fetchone()
            yield row, stamp, not stamp or found is None or found[0] != stamp

    def set(self, row: int, stamp: str) -> None:
        """Note that the row's bytes were right when its objects had this stamp."""
        if stamp:
            self._table.execute("INSERT OR REPLACE INTO stamps VALUES (?, ?)", (row, stamp))
            self._changed = True

    def drop(self, rows: Iterable[int]) -> None:
        """Remove the stamps of these rows."""
        for row in rows:
            self._table.execute("DELETE FROM stamps WHERE row = ?", (row,))
            self._changed = True

    def save(self) -> None:
        """Write the stamps, atomically, if any has changed."""
        if self._changed:
            found = self._table.execute("SELECT row, stamp FROM stamps ORDER BY row")
            parquet.write_table(self._store, VERIFIED, _COLUMNS, found)
            self._changed = False

    def _current_stamps(self, rows: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Row, and one hash of the stamps of its chunk and record; "" where one is missing."""
        one, two, three = tee(rows, 3)
        chunks = self._store.stamps(CHUNKS, map(chunk_key, one))
        records = self._store.stamps(RECORDS, map(record_key, two))
        for row, chunk, record in zip(three, chunks, records, strict=True):
            complete = chunk and record
            text = f"{chunk}/{record}".encode()
            yield row, xxhash.xxh3_128_hexdigest(text) if complete else ""
