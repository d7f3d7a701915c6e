"""Which row a series got: written before any work, so that a rerun gives the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from voco_data import spill
from voco_data.place import Place

KEY = "volumes/rows.parquet"

_SCHEMA = """
CREATE TABLE rows (key TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
CREATE INDEX by_row ON rows (row);
"""
_COLUMNS = pa.schema([("key", pa.string()), ("row", pa.int64())])
_PIECE = 10_000


def series_key(patient_id: str, series_uid: str, source: str) -> str:
    """Names a series within its archive, across runs."""
    text = "\0".join((patient_id, series_uid, source))
    return xxhash.xxh3_128_hexdigest(text.encode(errors="surrogateescape"))


class Rows:
    """Series key to row, for one store. Keys name a series of an archive across runs."""

    def __init__(self, store: Place) -> None:
        self._store = store
        self._table = spill.connect(_SCHEMA)
        if store.size(KEY) is not None:
            with store.fetched(KEY) as path, pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_PIECE):
                    pairs = zip(batch["key"].to_pylist(), batch["row"].to_pylist(), strict=True)
                    self._table.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", pairs)

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

    def numbers(self) -> Iterator[int]:
        """All rows, sorted. Read whole pages, so that the table may change meanwhile."""
        last = -1
        while page := self._table.execute(
            "SELECT DISTINCT row FROM rows WHERE row > ? ORDER BY row LIMIT ?", (last, _PIECE)
        ).fetchall():
            yield from (row for (row,) in page)
            last = page[-1][0]

    def cut(self, size: int) -> None:
        """Forget rows from `size` on."""
        self._table.execute("DELETE FROM rows WHERE row >= ?", (size,))

    def drop(self, rows: list[int]) -> None:
        """Forget these rows, whatever series they were given to."""
        self._table.executemany("DELETE FROM rows WHERE row = ?", ((row,) for row in rows))

    def save(self) -> None:
        """Write the table, atomically."""
        pairs = self._table.execute("SELECT key, row FROM rows ORDER BY row, key")
        with self._store.replacing(KEY) as path, pq.ParquetWriter(path, _COLUMNS) as writer:
            while piece := list(islice(pairs, _PIECE)):
                keys, rows = zip(*piece, strict=True)
                writer.write_batch(pa.record_batch([list(keys), list(rows)], schema=_COLUMNS))
