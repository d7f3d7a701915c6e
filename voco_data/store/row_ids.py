"""Which row a series got: written before any work, so that a rerun gives the same rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pyarrow as pa

from voco_data.errors import StoreCorrupt
from voco_data.storage import parquet, scratch_db
from voco_data.storage.base import Storage
from voco_data.store.keys import RECORDS as RECORDS

log = logging.getLogger(__name__)

KEY = "volumes/rows.parquet"

_SCHEMA = """
CREATE TABLE rows (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
CREATE INDEX by_row ON rows (row);
"""
_COLUMNS = pa.schema([("key", pa.string()), ("row", pa.int64())])


class RowIds:
    """Series key to row, for one store. Keys name a series of an archive across runs."""

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._table = scratch_db.open_scratch_db(_SCHEMA)
        self.lost = False
        """Whether the table could not be read, or is not there although there are records."""
        try:
            pairs = parquet.iter_rows(store, KEY, _COLUMNS.names)
            self._table.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", pairs)
        except StoreCorrupt as error:
            log.warning("%s; it is made again from the records", error)
            self._table.execute("DELETE FROM rows")
            self.lost = True
        if not (self.lost or self.size) and _is_gone(store):
            log.warning("%s/%s: the table is gone; it is made again from the records", store, KEY)
            self.lost = True

    def close(self) -> None:
        """Give the disk space back."""
        self._table.close()

    @property
    def size(self) -> int:
        """One past the last row; 0 where there is none."""
        (size,) = self._table.execute("SELECT COALESCE(MAX(row) + 1, 0) FROM rows").fetchone()
        return int(size)

    def get(self, key: str) -> int | None:
        """The row of a series, if it has one."""
        found = self._table.execute("SELECT row FROM rows WHERE key = ?", (key,)).fetchone()
        return None if found is None else int(found[0])

    def set(self, key: str, row: int) -> None:
        """Give a series a row; `save` writes it."""
        self._table.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (key, row))

    def has(self, row: int) -> bool:
        """Whether a series was given this row."""
        return scratch_db.exists(self._table, "FROM rows WHERE row = ?", (row,))

    def forget(self, keys: Iterable[str]) -> None:
        """Forget these series."""
        self._table.executemany("DELETE FROM rows WHERE key = ?", ((key,) for key in keys))

    def drop(self, rows: Iterable[int]) -> None:
        """Forget these rows, whatever series they were given to."""
        self._table.executemany("DELETE FROM rows WHERE row = ?", ((row,) for row in rows))

    def cut(self, size: int) -> None:
        """Forget rows from `size` on."""
        self._table.execute("DELETE FROM rows WHERE row >= ?", (size,))

    def save(self) -> None:
        """Write the table, atomically."""
        pairs = self._table.execute("SELECT key, row FROM rows ORDER BY row, key")
        parquet.write_table(self._store, KEY, _COLUMNS, pairs)


def _is_gone(store: Storage) -> bool:
    """A store without the table and without records is a new one."""
    return store.size(KEY) is None and any(True for _ in store.sizes(RECORDS))
