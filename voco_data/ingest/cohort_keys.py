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

Exclusion: TypeAlias = Literal["copy", "conflict", "refused"]
"""Why a series that shares its ids with another one does not get their row:

`copy`: the other one has the same contents; `conflict`: it has other contents, so neither is
stored; `refused`: this one cannot become a volume.
"""

_SCHEMA = """
CREATE TABLE series (number INTEGER PRIMARY KEY, key TEXT);
CREATE INDEX by_key ON series (key, number);
CREATE TABLE exclusions (number INTEGER PRIMARY KEY, exclusion TEXT, other INTEGER);
"""


class CohortKeys:
    """The key of every series of a cohort, in a temporary file."""

    def __init__(self, cohort: NamedCohort) -> None:
        self._table = scratch_db.open_scratch_db(_SCHEMA)
        self._table.executemany(
            "INSERT INTO series VALUES (?, ?)",
            ((series.head.number, series.key) for series in cohort),
        )

    def close(self) -> None:
        """Remove the temporary file."""
        self._table.close()

    def __contains__(self, key: str) -> bool:
        """Whether the cohort has a series of this key."""
        return scratch_db.exists(self._table, "FROM series WHERE key = ?", (key,))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys, sorted, each once."""
        return (key for (key,) in self._table.execute("SELECT DISTINCT key FROM series ORDER BY 1"))

    def repeated(self) -> Iterator[tuple[str, list[int]]]:
        """(key, numbers of its series, sorted) of every key that several series have."""
        keys = self._table.execute(
            "SELECT key FROM series GROUP BY key HAVING COUNT(*) > 1 ORDER BY key"
        ).fetchall()
        for (key,) in keys:
            numbers = self._table.execute(
                "SELECT number FROM series WHERE key = ? ORDER BY number", (key,)
            )
            yield key, [number for (number,) in numbers]

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
