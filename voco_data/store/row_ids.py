"""The row of each series, written before any work so that a rerun uses the same rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pyarrow as pa

from voco_data.errors import StoreCorrupt
from voco_data.storage import ReadableStorage, Storage, parquet, scratch_db
from voco_data.store.keys import RECORDS, ROW_IDS

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE rows (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
CREATE INDEX by_row ON rows (row);
"""
_COLUMNS = pa.schema([("key", pa.string()), ("row", pa.int64())])


class RowIds:
    """Series key to row, for one store. A key names a series of an archive in every run."""

    def __init__(self, store: ReadableStorage) -> None:
        self._table = scratch_db.open_scratch_db(_SCHEMA)
        self.is_lost = False
        """Whether the table cannot be read, or is missing although there are records."""
        try:
            pairs = parquet.iter_rows(store, ROW_IDS, _COLUMNS.names)
            self._table.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", pairs)
        except StoreCorrupt as error:
            log.warning("%s; it is made again from the records", error)
            self._table.execute("DELETE FROM rows")
            self.is_lost = True
        if not (self.is_lost or self.n_rows) and _is_missing(store):
            log.warning(
                "%s/%s: the table is gone; it is made again from the records", store, ROW_IDS
            )
            self.is_lost = True

    def close(self) -> None:
        """Close the table, which is in a temporary file."""
        self._table.close()

    @property
    def n_rows(self) -> int:
        """Number of rows, holes included: one more than the last row, 0 for an empty table."""
        (n_rows,) = self._table.execute("SELECT COALESCE(MAX(row) + 1, 0) FROM rows").fetchone()
        return int(n_rows)

    def get(self, key: str) -> int | None:
        """The row of a series; None if it has none."""
        entry = self._table.execute("SELECT row FROM rows WHERE key = ?", (key,)).fetchone()
        return None if entry is None else int(entry[0])

    def set(self, key: str, row: int) -> None:
        """Give a series a row, which no other series keeps; `save` writes it."""
        self._table.execute("DELETE FROM rows WHERE row = ? AND key != ?", (row, key))
        self._table.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (key, row))

    def has_row(self, row: int) -> bool:
        """Whether a series was given this row."""
        return scratch_db.exists(self._table, "FROM rows WHERE row = ?", (row,))

    def remove_keys(self, keys: Iterable[str]) -> None:
        """Remove the rows of these series."""
        self._table.executemany("DELETE FROM rows WHERE key = ?", ((key,) for key in keys))

    def remove_rows(self, rows: Iterable[int]) -> None:
        """Remove these rows, whatever series they were given to."""
        self._table.executemany("DELETE FROM rows WHERE row = ?", ((row,) for row in rows))

    def truncate(self, n_rows: int) -> None:
        """Remove the rows from `n_rows` on."""
        self._table.execute("DELETE FROM rows WHERE row >= ?", (n_rows,))

    def save(self, store: Storage) -> None:
        """Write the table to the store, atomically."""
        pairs = self._table.execute("SELECT key, row FROM rows ORDER BY row, key")
        parquet.write_table(store, ROW_IDS, _COLUMNS, pairs)


def _is_missing(store: ReadableStorage) -> bool:
    """Whether a store has records and no table. One that has neither is new."""
    return store.size(ROW_IDS) is None and any(True for _ in store.list_objects(RECORDS))
