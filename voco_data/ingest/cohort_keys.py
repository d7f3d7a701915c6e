"""The keys of the series of a cohort, and the series that share one.

A key stands for one row of a store, but two series of an archive may have the same ids: `scan.nii`
and `scan.nii.gz` in one folder, or patients whose ids differ by a blank that pseudonyms ignore.
Of such series at most one can have the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from voco_data.ingest.named_cohort import NamedCohort
from voco_data.storage import scratch_db

Exclusion: TypeAlias = Literal["copy", "conflict", "refused", "elsewhere"]
"""Why a series that shares its ids with another one does not get their row:

`copy`: the other one has the same contents; `conflict`: it has other contents, so neither is
stored; `refused`: this one cannot become a volume; `elsewhere`: the other one is in another archive
and has other contents, and its row stays.
"""

_SCHEMA = """
CREATE TABLE series (number INTEGER PRIMARY KEY, key TEXT);
CREATE INDEX by_key ON series (key, number);
CREATE TABLE on_paths (number INTEGER PRIMARY KEY);
CREATE TABLE uids (key TEXT, uid_key TEXT);
CREATE INDEX by_uid ON uids (uid_key);
CREATE TABLE exclusions (number INTEGER PRIMARY KEY, exclusion TEXT, other INTEGER);
"""


class CohortKeys:
    """The key of every series of a cohort, in a temporary file."""

    def __init__(self, cohort: NamedCohort) -> None:
        self._table = scratch_db.open_scratch_db(_SCHEMA)
        for series in cohort:
            number, key = series.head.number, series.key
            origin = cohort.cohort.origin(series.head)
            self._table.execute("INSERT INTO series VALUES (?, ?)", (number, key))
            self._table.executemany(
                "INSERT INTO uids VALUES (?, ?)",
                ((key, uid_key) for uid_key in cohort.uid_keys(series, origin)),
            )
            if not origin.is_named:
                self._table.execute("INSERT INTO on_paths VALUES (?)", (number,))

    def close(self) -> None:
        """Remove the temporary file."""
        self._table.close()

    def __contains__(self, key: str) -> bool:
        """Whether the cohort has a series of this key."""
        return scratch_db.exists(self._table, "FROM series WHERE key = ?", (key,))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys, sorted, each once."""
        return (key for (key,) in self._table.execute("SELECT DISTINCT key FROM series ORDER BY 1"))

    @property
    def n_keys(self) -> int:
        """The number of different keys."""
        (count,) = self._table.execute("SELECT COUNT(DISTINCT key) FROM series").fetchone()
        return int(count)

    @property
    def n_elsewhere(self) -> int:
        """The number of different keys of which another archive has the row."""
        (count,) = self._table.execute(
            "SELECT COUNT(DISTINCT key) FROM series JOIN exclusions USING (number)"
            " WHERE exclusion = 'elsewhere'"
        ).fetchone()
        return int(count)

    def key_of(self, number: int) -> str:
        """The key of a series."""
        (key,) = self._table.execute(
            "SELECT key FROM series WHERE number = ?", (number,)
        ).fetchone()
        return str(key)

    def with_uid_keys(self) -> Iterator[tuple[str, str]]:
        """(key, uid key) of all series, without those of which another archive has the row."""
        return self._table.execute(
            "SELECT key, uid_key FROM uids WHERE key NOT IN"
            " (SELECT key FROM series JOIN exclusions USING (number) WHERE exclusion = 'elsewhere')"
        )

    def numbers_of_uid(self, uid_key: str) -> list[int]:
        """Numbers of the series that have a uid key, sorted: all stacks of one series UID."""
        rows = self._table.execute(
            "SELECT DISTINCT number FROM uids JOIN series USING (key) WHERE uid_key = ?"
            " ORDER BY number",
            (uid_key,),
        )
        return [number for (number,) in rows]

    def numbers_of_key(self, key: str) -> list[int]:
        """Numbers of the series that have a key, sorted."""
        rows = self._table.execute(
            "SELECT number FROM series WHERE key = ? ORDER BY number", (key,)
        )
        return [number for (number,) in rows]

    def on_paths(self) -> Iterator[int]:
        """Numbers of the series of which a path stands in for an id, sorted."""
        rows = self._table.execute("SELECT number FROM on_paths ORDER BY number")
        return (number for (number,) in rows)

    def repeated(self) -> Iterator[tuple[str, list[int]]]:
        """(key, numbers of its series, sorted) of every key that several series have."""
        keys = self._table.execute(
            "SELECT key FROM series GROUP BY key HAVING COUNT(*) > 1 ORDER BY key"
        ).fetchall()
        for (key,) in keys:
            yield key, self.numbers_of_key(key)

    def exclude(self, number: int, exclusion: Exclusion, other: int) -> None:
        """Exclude a series from its key's row; `other` is another series of the key."""
        self._table.execute(
            "INSERT OR REPLACE INTO exclusions VALUES (?, ?, ?)", (number, exclusion, other)
        )

    def exclusion(self, number: int) -> tuple[Exclusion, int] | None:
        """Why a series is excluded, and another series of its key; None if it is not excluded."""
        row = self._table.execute(
            "SELECT exclusion, other FROM exclusions WHERE number = ?", (number,)
        ).fetchone()
        return None if row is None else (row[0], row[1])
