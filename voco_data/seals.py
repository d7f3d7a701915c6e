"""How the objects of a store's rows looked when their bytes were last found right.

An object with the same stamp needs no re-hash: a run over a large store looks at each once, and
reads only those that were touched since. Losing the seals costs time alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice, tee

import pyarrow as pa
import xxhash

from voco_data import spill, tables
from voco_data.errors import StoreCorrupt
from voco_data.place import Place
from voco_data.record import FOLDER, record_key
from voco_data.store import CHUNKS, chunk_key

log = logging.getLogger(__name__)

KEY = "volumes/seals.parquet"
_COLUMNS = pa.schema([("row", pa.int64()), ("stamp", pa.string())])
_TABLE = "CREATE TABLE seals (row INTEGER PRIMARY KEY, stamp TEXT);"
_PIECE = 10_000


class Seals:
    """The stamps of one store's rows, on disk while a run uses them."""

    def __init__(self, store: Place) -> None:
        self._store = store
        self._table = spill.connect(_TABLE)
        self._changed = False
        try:
            self._table.executemany(
                "INSERT OR REPLACE INTO seals VALUES (?, ?)",
                tables.lines(store, KEY, _COLUMNS.names),
            )
        except StoreCorrupt as error:
            log.warning("%s; every volume is checked", error)
            self._table.execute("DELETE FROM seals")

    def close(self) -> None:
        """Give the disk space back."""
        self._table.close()

    def broken(self, rows: Iterable[int]) -> Iterator[int]:
        """Those of the rows whose objects do not look as when they were last found right."""
        for row, stamp in self._stamps(rows):
            found = self._table.execute("SELECT stamp FROM seals WHERE row = ?", (row,)).fetchone()
            if not stamp or found is None or found[0] != stamp:
                yield row

    def set(self, rows: Iterable[int]) -> None:
        """The bytes of these rows are right: remember how their objects look."""
        for row, stamp in self._stamps(rows):
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
            tables.write(self._store, KEY, _COLUMNS, found)
            self._changed = False

    def _stamps(self, rows: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Row, and one digest for how its chunk and its record look; empty where one is missing."""
        one, two, three = tee(rows, 3)
        chunks = self._store.stamps(CHUNKS, map(chunk_key, one))
        records = self._store.stamps(FOLDER, map(record_key, two))
        for row, chunk, record in zip(three, chunks, records, strict=True):
            whole = chunk and record
            yield row, xxhash.xxh3_128_hexdigest(f"{chunk}/{record}".encode()) if whole else ""


def in_pieces(rows: Iterable[int]) -> Iterator[list[int]]:
    """Rows, some thousands at a time."""
    remaining = iter(rows)
    for first in remaining:
        yield list(chain([first], islice(remaining, _PIECE - 1)))
