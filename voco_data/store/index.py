"""What a store contains, looked up by row, series, input or content.

`StoreIndex` is the index of one store for one run, a table on disk. `InputDigests` is the part of
it that every worker gets: 32 bytes a series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.storage import ReadableStorage, scratch_db
from voco_data.store import catalogue
from voco_data.store.catalogue import Line

SeriesIdentity = tuple[str, str]
"""Patient and series id, as records give them."""

_SCHEMA = """
CREATE TABLE lines (
    row INTEGER PRIMARY KEY, patient_id TEXT, series_uid TEXT, source TEXT, input_digest TEXT,
    content_digest TEXT, stat_digest TEXT, line TEXT, fresh INTEGER, damaged INTEGER
);
CREATE INDEX by_series ON lines (series_uid, patient_id, source);
CREATE INDEX by_input ON lines (input_digest);
CREATE INDEX by_content ON lines (content_digest, series_uid, patient_id);
CREATE VIEW intact AS SELECT * FROM lines WHERE NOT damaged;
"""
_INDEXED = (
    "row",
    "patient_id",
    "series_uid",
    "source",
    "input_digest",
    "content_digest",
    "stat_digest",
)
"""Columns of the catalogue that have a column of their own in the table, in its order."""

_ROWS_AT_ONCE = 10_000
"""Rows that one query returns."""

LINE_COLUMNS = [name for name in catalogue.COLUMNS if name != "instance_numbers"]
"""Columns that a line keeps. No look-up needs instance numbers, which are most of a catalogue."""

_EMPTY = np.empty(0, "S32")


class InputDigests:
    """Input digests of the series of one store, as workers ask for them.

    A series is in the store if its input digest is, so a moved, copied or renamed archive still
    hits. One exception: the record of that digest belongs to another series of the same archive.
    Two patients with equal pixels each get a row of their own, in whatever order they come.
    """

    def __init__(self, keys: npt.NDArray[np.bytes_] = _EMPTY) -> None:
        """`keys` are sorted: digests, or digests hashed with an identity."""
        self._keys = keys

    @classmethod
    def of(
        cls,
        series: Iterable[tuple[str, SeriesIdentity]],
        count: int,
        is_present: Callable[[SeriesIdentity], bool],
    ) -> InputDigests:
        """From the input digest and the identity of the `count` series of a store.

        `is_present` tells whether the archive of this run has a series of that identity.
        """
        keys = np.empty(count, "S32")
        for number, (digest, identity) in enumerate(series):
            keys[number] = _with_identity(digest, identity) if is_present(identity) else digest
        keys.sort()
        return cls(keys)

    def holds(self, digest: str, identity: SeriesIdentity) -> bool:
        """Whether the series `identity` with this input digest is in the store."""
        return self._contains(digest) or self._contains(_with_identity(digest, identity))

    def _contains(self, key: str) -> bool:
        wanted = np.bytes_(key.encode())
        position = int(np.searchsorted(self._keys, wanted))
        return position < len(self._keys) and bool(self._keys[position] == wanted)


def _with_identity(digest: str, identity: SeriesIdentity) -> str:
    return xxhash.xxh3_128_hexdigest("\0".join((digest, *identity)).encode())


class StoreIndex:
    """The catalogue lines of one store, and those of this run that the catalogue lacks (`fresh`).

    A damaged line stays in the catalogue until its series is read again, but look-ups by input,
    content or digest pass it over.
    """

    def __init__(self) -> None:
        self._table = scratch_db.open_scratch_db(_SCHEMA)

    def load(self, store: ReadableStorage) -> None:
        """Load the catalogue. Raises StoreCorrupt; the index is empty then."""
        try:
            # All columns are read, so that damage in any of them is found now.
            for batch in catalogue.batches(store):
                self._insert(batch.select(LINE_COLUMNS).to_pylist(), fresh=False)
        except BaseException:
            self._table.execute("DELETE FROM lines")
            raise

    def close(self) -> None:
        """Free the disk space."""
        self._table.close()

    @property
    def size(self) -> int:
        """One past the last row, damaged ones included; 0 for an empty store."""
        return self._number("SELECT COALESCE(MAX(row) + 1, 0) FROM lines")

    @property
    def count(self) -> int:
        """How many lines there are, damaged ones included."""
        return self._number("SELECT COUNT(*) FROM lines")

    def rows(self) -> Iterator[int]:
        """All rows, damaged ones included, sorted. Lines may be added or dropped meanwhile."""
        last = -1
        while batch := self._table.execute(
            "SELECT row FROM lines WHERE row > ? ORDER BY row LIMIT ?", (last, _ROWS_AT_ONCE)
        ).fetchall():
            for (last,) in batch:
                yield last

    def has_row(self, row: int) -> bool:
        """Whether the row has a line, damaged or not."""
        return scratch_db.exists(self._table, "FROM lines WHERE row = ?", (row,))

    def is_intact(self, row: int) -> bool:
        """Whether the row has a line, and is not known to be damaged."""
        return scratch_db.exists(self._table, "FROM intact WHERE row = ?", (row,))

    def has_series(self, identity: SeriesIdentity) -> bool:
        """Whether there is a series of this patient and id, whatever its pixels were."""
        patient_id, series_uid = identity
        return scratch_db.exists(
            self._table,
            "FROM lines WHERE series_uid = ? AND patient_id = ?",
            (series_uid, patient_id),
        )

    def digests(self) -> Iterator[tuple[str, str]]:
        """(stat digest, input digest) of every intact series."""
        return self._table.execute("SELECT stat_digest, input_digest FROM intact")

    def identities(self) -> Iterator[tuple[int, str, str, str]]:
        """(row, patient, series, source) of every series, damaged ones included."""
        return self._table.execute("SELECT row, patient_id, series_uid, source FROM lines")

    def at(self, row: int) -> Line | None:
        """The line of a row, damaged or not; without instance numbers if the catalogue has it."""
        return self._line("lines", "row", row)

    def of_input(self, input_digest: str) -> Line | None:
        """The first intact line with this input digest."""
        return self._line("intact", "input_digest", input_digest)

    def first_of_content(self, content_digest: str) -> SeriesIdentity | None:
        """Patient and series of the first intact series, by series id, with these HU."""
        found = self._table.execute(
            "SELECT patient_id, series_uid FROM intact WHERE content_digest = ?"
            " ORDER BY series_uid, patient_id LIMIT 1",
            (content_digest,),
        ).fetchone()
        return None if found is None else (found[0], found[1])

    def input_digests(self, is_present: Callable[[SeriesIdentity], bool]) -> InputDigests:
        """Input digests of the intact series, for the workers of a run.

        `is_present` tells whether the archive of this run has a series of that identity.
        """
        lines = self._table.execute("SELECT input_digest, patient_id, series_uid FROM intact")
        return InputDigests.of(
            ((digest, (patient, series)) for digest, patient, series in lines),
            self._number("SELECT COUNT(*) FROM intact"),
            is_present,
        )

    def replace(self, flat: Line) -> list[int]:
        """Add a fresh line; returns the rows of the same series that lose theirs to it.

        Of two lines of one series the later row counts: it was made to replace the other.
        """
        others = self._table.execute(
            "SELECT row FROM lines WHERE series_uid = ? AND patient_id = ? AND source = ?"
            " AND row != ?",
            (flat["series_uid"], flat["patient_id"], flat["source"], flat["row"]),
        ).fetchall()
        replaced = [row for (row,) in others]
        if replaced and max(replaced) > flat["row"]:
            replaced = [flat["row"]]  # its line, if it has one, describes bytes that were replaced
            self.drop(replaced)
            return replaced
        self.drop(replaced)
        self._insert([flat], fresh=True)
        return replaced

    def mark_damaged(self, row: int) -> None:
        """Mark a row as damaged, so that look-ups pass it over."""
        self._table.execute("UPDATE lines SET damaged = 1 WHERE row = ?", (row,))

    def drop(self, rows: Iterable[int]) -> None:
        """Remove the lines of these rows."""
        self._table.executemany("DELETE FROM lines WHERE row = ?", ((row,) for row in rows))

    def fresh(self) -> Iterator[Line]:
        """Lines that the catalogue lacks, sorted by row."""
        found = self._table.execute("SELECT line FROM lines WHERE fresh ORDER BY row")
        return (catalogue.from_json(text) for (text,) in found)

    def fresh_rows(self) -> Iterator[int]:
        """Rows of the fresh lines that are intact."""
        found = self._table.execute("SELECT row FROM intact WHERE fresh ORDER BY row")
        return (row for (row,) in found)

    def mark_saved(self) -> None:
        """Note that the catalogue has all lines."""
        self._table.execute("UPDATE lines SET fresh = 0 WHERE fresh")

    def _insert(self, lines: Sequence[Line], *, fresh: bool) -> None:
        self._table.executemany(
            "INSERT OR REPLACE INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                (*(flat[name] for name in _INDEXED), catalogue.to_json(flat), fresh)
                for flat in lines
            ),
        )

    def _line(self, table: str, column: str, value: object) -> Line | None:
        found = self._table.execute(
            f"SELECT line FROM {table} WHERE {column} = ? ORDER BY row LIMIT 1", (value,)
        ).fetchone()
        return None if found is None else catalogue.from_json(found[0])

    def _number(self, query: str) -> int:
        (number,) = self._table.execute(query).fetchone()
        return int(number)
