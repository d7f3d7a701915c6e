"""Look-ups in a store by row, series, input or content.

`StoreIndex` is the index of one store for one run, a table on disk. `InputDigests` is the part of
it that every worker gets: 32 bytes a series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.storage import ReadableStorage, scratch_db
from voco_data.store import catalogue
from voco_data.store.catalogue import Line
from voco_data.store.record import SeriesIdentity

_SCHEMA = """
CREATE TABLE lines (
    row INTEGER PRIMARY KEY, patient_id TEXT, study_uid TEXT, series_uid TEXT, input_digest TEXT,
    content_digest TEXT, stat_digest TEXT, line TEXT, catalogued INTEGER, damaged INTEGER
);
CREATE INDEX by_series ON lines (series_uid, study_uid, patient_id);
CREATE INDEX by_content ON lines (content_digest, series_uid, patient_id, study_uid);
CREATE VIEW intact AS SELECT * FROM lines WHERE NOT damaged;
"""
_INDEXED = (
    "row",
    "patient_id",
    "study_uid",
    "series_uid",
    "input_digest",
    "content_digest",
    "stat_digest",
)
"""Columns of the catalogue that have a column of their own in the table, in its order."""

_IS_SERIES = "series_uid = ? AND study_uid = ? AND patient_id = ?"
"""Condition for the lines of one series; `_values` gives its values."""

_ROWS_PER_QUERY = 10_000
"""Rows that one query returns."""

LINE_COLUMNS = [name for name in catalogue.COLUMNS if name != "instance_numbers"]
"""Columns that a line keeps. No look-up needs instance numbers, which are most of a catalogue."""

_EMPTY = np.empty(0, "S32")


class InputDigests:
    """Input digests of the series of one store, as workers ask for them.

    A series is in the store if a row of the same identity has the same input digest. Paths are
    part of neither, so a moved or copied archive still hits. The same pixels under another
    identity do not.
    """

    def __init__(self, keys: npt.NDArray[np.bytes_] = _EMPTY) -> None:
        """`keys` are sorted: digests, each hashed with the identity of its series."""
        self._keys = keys

    @classmethod
    def from_series(cls, series: Iterable[tuple[str, SeriesIdentity]], count: int) -> InputDigests:
        """Build from the input digest and the identity of the `count` series of a store."""
        keys = np.empty(count, "S32")
        for number, (digest, identity) in enumerate(series):
            keys[number] = _with_identity(digest, identity)
        keys.sort()
        return cls(keys)

    def holds(self, digest: str, identity: SeriesIdentity) -> bool:
        """Whether the series `identity` with this input digest is in the store."""
        encoded = np.bytes_(_with_identity(digest, identity).encode())
        position = int(np.searchsorted(self._keys, encoded))
        return position < len(self._keys) and bool(self._keys[position] == encoded)


def _with_identity(digest: str, identity: SeriesIdentity) -> str:
    text = "\0".join((digest, *identity))
    return xxhash.xxh3_128_hexdigest(text.encode(errors="surrogateescape"))


def _values(identity: SeriesIdentity) -> tuple[str, str, str]:
    """The values of `_IS_SERIES`."""
    return (identity.series_uid, identity.study_uid, identity.patient_id)


class StoreIndex:
    """The catalogue lines of one store, and those of this run that are not catalogued yet.

    A damaged line stays in the catalogue until its series is read again, but look-ups by input,
    content or digest ignore it.
    """

    def __init__(self) -> None:
        self._table = scratch_db.open_scratch_db(_SCHEMA)

    def load(self, store: ReadableStorage) -> None:
        """Load the catalogue. Raises StoreCorrupt; the index is empty then."""
        try:
            # All columns are read, so that damage in any of them is found now.
            for batch in catalogue.iter_batches(store):
                self._insert(batch.select(LINE_COLUMNS).to_pylist(), catalogued=True)
        except BaseException:
            self._table.execute("DELETE FROM lines")
            raise

    def close(self) -> None:
        """Close the table, which is in a temporary file."""
        self._table.close()

    @property
    def n_rows(self) -> int:
        """Number of rows, holes included: one more than the last row, 0 for an empty store."""
        return self._query_number("SELECT COALESCE(MAX(row) + 1, 0) FROM lines")

    @property
    def n_lines(self) -> int:
        """Number of lines, damaged ones included."""
        return self._query_number("SELECT COUNT(*) FROM lines")

    def rows(self) -> Iterator[int]:
        """Iterate over all rows, damaged ones included, sorted.

        Lines may be added or removed during the iteration.
        """
        last = -1
        while batch := self._table.execute(
            "SELECT row FROM lines WHERE row > ? ORDER BY row LIMIT ?", (last, _ROWS_PER_QUERY)
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
        """Whether there is a row of this series, whatever its pixels are."""
        return scratch_db.exists(self._table, f"FROM lines WHERE {_IS_SERIES}", _values(identity))

    def digests(self) -> Iterator[tuple[str, str]]:
        """(stat digest, input digest) of every intact series."""
        return self._table.execute("SELECT stat_digest, input_digest FROM intact")

    def identities(self) -> Iterator[tuple[int, SeriesIdentity]]:
        """(row, identity) of every series, damaged ones included, sorted by row."""
        lines = self._table.execute(
            "SELECT row, patient_id, study_uid, series_uid FROM lines ORDER BY row"
        )
        return ((row, SeriesIdentity(*identity)) for row, *identity in lines)

    def superseded_rows(self) -> Iterator[tuple[int, int]]:
        """(row, row that stays) where two rows are of one series, sorted.

        The last intact row stays, or the last one if all are damaged. Only a store of a version
        in which the folder was part of a series' identity has such rows.
        """
        return self._table.execute(
            "SELECT row, staying FROM (SELECT row, FIRST_VALUE(row) OVER"
            " (PARTITION BY series_uid, study_uid, patient_id ORDER BY damaged, row DESC)"
            " AS staying FROM lines) WHERE row != staying ORDER BY row"
        )

    def line_of_row(self, row: int) -> Line | None:
        """The line of a row, damaged or not; without instance numbers if it is catalogued."""
        return self._query_line("lines WHERE row = ?", (row,))

    def line_of_series(self, identity: SeriesIdentity, input_digest: str) -> Line | None:
        """The intact line of a series, if its input digest is this one."""
        return self._query_line(
            f"intact WHERE {_IS_SERIES} AND input_digest = ?", (*_values(identity), input_digest)
        )

    def lines_of_series(self, identity: SeriesIdentity) -> list[Line]:
        """All lines of a series, damaged or not, sorted by row."""
        rows = self._table.execute(
            f"SELECT line FROM lines WHERE {_IS_SERIES} ORDER BY row", _values(identity)
        )
        return [catalogue.line_from_json(text) for (text,) in rows]

    def series_of_content(self, content_digest: str) -> Iterator[SeriesIdentity]:
        """The intact series with these HU, sorted by series, patient and study id."""
        lines = self._table.execute(
            "SELECT patient_id, study_uid, series_uid FROM intact WHERE content_digest = ?"
            " ORDER BY series_uid, patient_id, study_uid",
            (content_digest,),
        )
        return (SeriesIdentity(*identity) for identity in lines)

    def input_digests(self) -> InputDigests:
        """Input digests of the intact series, for the workers of a run."""
        lines = self._table.execute(
            "SELECT input_digest, patient_id, study_uid, series_uid FROM intact"
        )
        return InputDigests.from_series(
            ((digest, SeriesIdentity(*identity)) for digest, *identity in lines),
            self._query_number("SELECT COUNT(*) FROM intact"),
        )

    def add_line(self, line: Line) -> list[int]:
        """Add a line that is not catalogued; returns the rows whose lines were removed for it.

        A series has one line. Of two, that of the later row stays: it was made to replace the
        other.
        """
        others = self._table.execute(
            f"SELECT row FROM lines WHERE {_IS_SERIES} AND row != ?",
            (line["series_uid"], line["study_uid"], line["patient_id"], line["row"]),
        ).fetchall()
        replaced = [row for (row,) in others]
        if replaced and max(replaced) > line["row"]:
            replaced = [line["row"]]  # its line, if it has one, describes bytes that were replaced
            self.remove_rows(replaced)
            return replaced
        self.remove_rows(replaced)
        self._insert([line], catalogued=False)
        return replaced

    def mark_damaged(self, row: int) -> None:
        """Mark a row as damaged, so that look-ups ignore it."""
        self._table.execute("UPDATE lines SET damaged = 1 WHERE row = ?", (row,))

    def remove_rows(self, rows: Iterable[int]) -> None:
        """Remove the lines of these rows."""
        self._table.executemany("DELETE FROM lines WHERE row = ?", ((row,) for row in rows))

    def uncatalogued_lines(self) -> Iterator[Line]:
        """Iterate over the lines that the catalogue lacks, sorted by row."""
        lines = self._table.execute("SELECT line FROM lines WHERE NOT catalogued ORDER BY row")
        return (catalogue.line_from_json(text) for (text,) in lines)

    def uncatalogued_rows(self) -> Iterator[int]:
        """Iterate over the rows of the intact lines that the catalogue lacks, sorted."""
        rows = self._table.execute("SELECT row FROM intact WHERE NOT catalogued ORDER BY row")
        return (row for (row,) in rows)

    def mark_catalogued(self) -> None:
        """Record that the catalogue on disk has all lines."""
        self._table.execute("UPDATE lines SET catalogued = 1 WHERE NOT catalogued")

    def _insert(self, lines: Sequence[Line], *, catalogued: bool) -> None:
        self._table.executemany(
            "INSERT OR REPLACE INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                (
                    *(line[name] for name in _INDEXED),
                    catalogue.line_to_json(line),
                    catalogued,
                )
                for line in lines
            ),
        )

    def _query_line(self, condition: str, values: Sequence[object]) -> Line | None:
        row = self._table.execute(
            f"SELECT line FROM {condition} ORDER BY row LIMIT 1", values
        ).fetchone()
        return None if row is None else catalogue.line_from_json(row[0])

    def _query_number(self, query: str) -> int:
        (number,) = self._table.execute(query).fetchone()
        return int(number)
