"""What a store holds, looked up by row, series, input or content: a table on disk, for one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from voco_data.storage import scratch_db
from voco_data.storage.base import Storage
from voco_data.store import catalogue
from voco_data.store.catalogue import Line
from voco_data.store.input_digests import InputDigests, SeriesIdentity

_SCHEMA = """
CREATE TABLE held (
    row INTEGER PRIMARY KEY, patient_id TEXT, series_uid TEXT, source TEXT, input_digest TEXT,
    content_digest TEXT, stat_digest TEXT, line TEXT, fresh INTEGER, damaged INTEGER
);
CREATE INDEX by_series ON held (series_uid, patient_id, source);
CREATE INDEX by_input ON held (input_digest);
CREATE INDEX by_content ON held (content_digest, series_uid, patient_id);
CREATE VIEW whole AS SELECT * FROM held WHERE NOT damaged;
"""
_INDEXED = (
    *("row", "patient_id", "series_uid", "source"),
    *("input_digest", "content_digest", "stat_digest"),
)
_PIECE = 10_000
"""Rows that are looked up at once."""

FACTS = [name for name in catalogue.COLUMNS if name != "instance_numbers"]
"""Instance numbers are most of a catalogue, and no look-up asks for them."""


class StoreIndex:
    """The lines of one store. Lines of this run are `fresh` until the catalogue has them.

    A line that is damaged stays in the catalogue until its series is read again; no look-up
    finds it.
    """

    def __init__(self) -> None:
        self._table = scratch_db.open_scratch_db(_SCHEMA)

    def load(self, store: Storage) -> None:
        """Take up the catalogue. Raises StoreCorrupt; then nothing is held."""
        try:
            # All columns are read, so that damage in any of them shows now.
            for batch in catalogue.batches(store):
                self._insert(batch.select(FACTS).to_pylist(), fresh=False)
        except BaseException:
            self._table.execute("DELETE FROM held")
            raise

    def close(self) -> None:
        """Give the disk space back."""
        self._table.close()

    @property
    def size(self) -> int:
        """One past the last row, damaged ones included; 0 where there is none."""
        return self._number("SELECT COALESCE(MAX(row) + 1, 0) FROM held")

    def rows(self) -> Iterator[int]:
        """All rows, damaged ones included, sorted. Lines may be taken up or dropped meanwhile."""
        last = -1
        while piece := self._table.execute(
            "SELECT row FROM held WHERE row > ? ORDER BY row LIMIT ?", (last, _PIECE)
        ).fetchall():
            for (last,) in piece:
                yield last

    @property
    def count(self) -> int:
        """How many lines there are, damaged ones included."""
        return self._number("SELECT COUNT(*) FROM held")

    def has_row(self, row: int) -> bool:
        """Whether the catalogue lists this row, or will."""
        return scratch_db.exists(self._table, "FROM held WHERE row = ?", (row,))

    def is_whole(self, row: int) -> bool:
        """Whether a volume of this row is held, and not known to be damaged."""
        return scratch_db.exists(self._table, "FROM whole WHERE row = ?", (row,))

    def has_series(self, identity: SeriesIdentity) -> bool:
        """Whether a series of this patient and id is held, whatever its pixels were."""
        patient_id, series_uid = identity
        return scratch_db.exists(
            self._table,
            "FROM held WHERE series_uid = ? AND patient_id = ?",
            (series_uid, patient_id),
        )

    def digests(self) -> Iterator[tuple[str, str]]:
        """(stat digest, input digest) of every series."""
        return self._table.execute("SELECT stat_digest, input_digest FROM whole")

    def identities(self) -> Iterator[tuple[int, str, str, str]]:
        """(row, patient, series, source) of every series, damaged ones included."""
        return self._table.execute("SELECT row, patient_id, series_uid, source FROM held")

    def at(self, row: int) -> Line | None:
        """The line of a row, damaged or not; without instance numbers if the catalogue has it."""
        return self._line("held", "row", row)

    def of_input(self, input_digest: str) -> Line | None:
        """The first line with this input digest."""
        return self._line("whole", "input_digest", input_digest)

    def first_of_content(self, content_digest: str) -> SeriesIdentity | None:
        """Patient and series of the first series, by series id, with these HU."""
        found = self._table.execute(
            "SELECT patient_id, series_uid FROM whole WHERE content_digest = ?"
            " ORDER BY series_uid, patient_id LIMIT 1",
            (content_digest,),
        ).fetchone()
        return None if found is None else (found[0], found[1])

    def known(self, is_present: Callable[[SeriesIdentity], bool]) -> InputDigests:
        """The input digests, as workers ask for them. `is_present`: in the archive of this run."""
        lines = self._table.execute("SELECT input_digest, patient_id, series_uid FROM whole")
        return InputDigests.of(
            ((digest, (patient, series)) for digest, patient, series in lines),
            self._number("SELECT COUNT(*) FROM whole"),
            is_present,
        )

    def replace(self, flat: Line) -> list[int]:
        """Take up a fresh line; gives the rows of the same series that it leaves without one.

        Of two lines of one series the later row counts: it was made to replace the other.
        """
        old = self._table.execute(
            "SELECT row FROM held WHERE series_uid = ? AND patient_id = ? AND source = ?"
            " AND row != ?",
            (flat["series_uid"], flat["patient_id"], flat["source"], flat["row"]),
        ).fetchall()
        gone = [row for (row,) in old]
        if gone and max(gone) > flat["row"]:
            gone = [flat["row"]]  # whatever was listed there was written over
            self.drop(gone)
            return gone
        self.drop(gone)
        self._insert([flat], fresh=True)
        return gone

    def mark_damaged(self, row: int) -> None:
        """From now on no look-up finds this row."""
        self._table.execute("UPDATE held SET damaged = 1 WHERE row = ?", (row,))

    def drop(self, rows: Iterable[int]) -> None:
        """Forget rows."""
        self._table.executemany("DELETE FROM held WHERE row = ?", ((row,) for row in rows))

    def fresh(self) -> Iterator[Line]:
        """Lines that the catalogue lacks, sorted by row."""
        found = self._table.execute("SELECT line FROM held WHERE fresh ORDER BY row")
        return (catalogue.from_json(text) for (text,) in found)

    def fresh_rows(self) -> Iterator[int]:
        """Their rows, without those that are damaged."""
        found = self._table.execute("SELECT row FROM whole WHERE fresh ORDER BY row")
        return (row for (row,) in found)

    def settle(self) -> None:
        """The catalogue has them now."""
        self._table.execute("UPDATE held SET fresh = 0 WHERE fresh")

    def _insert(self, lines: Sequence[Line], *, fresh: bool) -> None:
        self._table.executemany(
            "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
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
        (found,) = self._table.execute(query).fetchone()
        return int(found)
