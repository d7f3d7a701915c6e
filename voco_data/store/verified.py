"""How the objects of a store's rows looked when their bytes were last found right.

An object with the same stamp needs no re-hash: a run over a large store looks at each once, and
reads only those that were touched since. Losing the seals costs time alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice, tee
from typing import TypeVar

import pyarrow as pa
import xxhash

from voco_data.errors import StoreCorrupt
from voco_data.storage import parquet, scratch_db
from voco_data.storage.base import Storage
from voco_data.store.keys import CHUNKS, RECORDS, chunk_key, record_key

log = logging.getLogger(__name__)

KEY = "volumes/seals.parquet"
_COLUMNS = pa.schema([("row", pa.int64()), ("stamp", pa.string())])
_TABLE = "CREATE TABLE seals (row INTEGER PRIMARY KEY, stamp TEXT);"
_PIECE = 10_000


class VerifiedStamps:
    """The stamps of one store's rows, on disk while a run uses them."""

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._table = scratch_db.open_scratch_db(_TABLE)
        self._changed = False
        try:
            self._table.executemany(
                "INSERT OR REPLACE INTO seals VALUES (?, ?)",
                parquet.iter_rows(store, KEY, _COLUMNS.names),
            )
        except StoreCorrupt as error:
            log.warning("%s; every volume is checked", error)
            self._table.execute("DELETE FROM seals")

    def close(self) -> None:
        """Give the disk space back."""
        self._table.close()

    def look(self, rows: Iterable[int]) -> Iterator[tuple[int, str, bool]]:
        """Row, its stamp now, and whether that is another than when it was last found right."""
        for row, stamp in self._stamps(rows):
            found = self._table.execute("SELECT stamp FROM seals WHERE row = ?", (row,)).fetchone()
            yield row, stamp, not stamp or found is None or found[0] != stamp

    def set(self, row: int, stamp: str) -> None:
        """The bytes of this row were right when its objects had this stamp."""
        if stamp:
            self._table.execute("INSERT OR REPLACE INTO seals VALUES (?, ?)", (row, stamp))
            self._changed = True

    def drop(self, rows: Iterable[int]) -> None:
        """Forget these rows."""
        for row in rows:
            self._table.execute("DELETE FROM seals WHERE row = ?", (row,))
            self._changed = True

    def save(self) -> None:
        """Write the stamps, atomically, if any has changed."""
        if self._changed:
            found = self._table.execute("SELECT row, stamp FROM seals ORDER BY row")
            parquet.write_table(self._store, KEY, _COLUMNS, found)
            self._changed = False

    def _stamps(self, rows: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Row, and one digest for how its chunk and its record look; empty where one is missing."""
        one, two, three = tee(rows, 3)
        chunks = self._store.stamps(CHUNKS, map(chunk_key, one))
        records = self._store.stamps(RECORDS, map(record_key, two))
        for row, chunk, record in zip(three, chunks, records, strict=True):
            whole = chunk and record
            yield row, xxhash.xxh3_128_hexdigest(f"{chunk}/{record}".encode()) if whole else ""


T = TypeVar("T")


def in_pieces(rows: Iterable[T]) -> Iterator[list[T]]:
    """Rows, some thousands at a time."""
    remaining = iter(rows)
    for first in remaining:
        yield list(chain([first], islice(remaining, _PIECE - 1)))
