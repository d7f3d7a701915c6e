"""The series that each archive has held, so that a run knows which rows came from SOURCE.

A root may be filled from several archives. Every run records the keys of the series that it finds
before it reads them. An archive is known by the absolute path of SOURCE, with links resolved. For a
root in an object store, which several machines may fill, the name of the machine belongs to it. The
path itself is written where ids are kept; else a keyed hash stands here, and the private map has
the path.

If the table is lost, the next run over each archive records what it holds then. Series that are
gone by that time have no archive, and are never removed.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import xxhash

from voco_data.deidentification import Pseudonymiser
from voco_data.errors import StoreCorrupt
from voco_data.storage import (
    ARCHIVES,
    ARCHIVES_LOCK,
    ReadableStorage,
    Storage,
    escape_undecodable,
    parquet,
    scratch_db,
)

log = logging.getLogger(__name__)

LOCK_WAIT_S = 60.0
"""Time to wait for another run that writes the table."""
_COLUMNS = pa.schema(
    [
        ("archive", pa.string()),
        ("place", pa.string()),
        ("key", pa.string()),
        ("uid_key", pa.string()),
        ("since", pa.int64()),
    ]
)
_SCHEMA = """
CREATE TABLE held (
    archive TEXT, key TEXT, uid_key TEXT, since INTEGER, PRIMARY KEY (archive, key, uid_key)
) WITHOUT ROWID;
CREATE INDEX by_key ON held (key, archive);
CREATE TABLE places (archive TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID;
"""


def archive_place(source: Path, root: ReadableStorage) -> str:
    """Where an archive is: the path of SOURCE, and the machine if the root is not on a disk."""
    place = str(source.resolve())
    return place if root.local_folder() is not None else f"{socket.gethostname()}:{place}"


def archive_id(place: str, pseudonymiser: Pseudonymiser | None) -> str:
    """The id of the archive at a place in a root: a keyed hash if ids are hidden, as is a path."""
    if pseudonymiser is None:
        return xxhash.xxh3_128_hexdigest(place.encode(errors="surrogateescape"))
    return pseudonymiser("archive", place)


class Archives:
    """The series keys that the archives of one root hold, in a temporary file during a run."""

    def __init__(self, root: Storage) -> None:
        self._root = root
        self._table = scratch_db.open_scratch_db(_SCHEMA)
        self._removals: list[tuple[str, tuple[str, ...]]] = []
        self._is_changed = False
        self._load()
        (last,) = self._table.execute("SELECT COALESCE(MAX(since), 0) FROM held").fetchone()
        self._since = int(last) + 1

    def close(self) -> None:
        """Remove the temporary file."""
        self._table.close()

    def add(self, archive: str, place: str, keys: Iterable[tuple[str, str]]) -> None:
        """Record that an archive holds these series; `save` writes it.

        `keys`: key and uid key (`NamedCohort.uid_keys`) of each. `place` is empty where paths are
        hidden.
        """
        before = self._table.total_changes
        self._table.executemany(
            "INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?)",
            ((archive, key, uid_key, self._since) for key, uid_key in keys),
        )
        self._is_changed |= self._table.total_changes > before
        self._table.execute(
            "INSERT OR REPLACE INTO places VALUES (?, ?)", (archive, escape_undecodable(place))
        )

    def ids(self) -> list[str]:
        """The ids of all archives, sorted."""
        rows = self._table.execute("SELECT DISTINCT archive FROM held ORDER BY 1")
        return [archive for (archive,) in rows]

    def place_of(self, archive: str) -> str:
        """Where an archive is; empty if the table does not tell."""
        row = self._table.execute(
            "SELECT place FROM places WHERE archive = ?", (archive,)
        ).fetchone()
        return "" if row is None else str(row[0])

    def count(self, archive: str) -> int:
        """The number of series that an archive has held."""
        (count,) = self._table.execute(
            "SELECT COUNT(DISTINCT key) FROM held WHERE archive = ?", (archive,)
        ).fetchone()
        return int(count)

    def keys_of(self, archive: str) -> Iterator[str]:
        """Iterate over the keys of the series that an archive has held, sorted."""
        rows = self._table.execute(
            "SELECT DISTINCT key FROM held WHERE archive = ? ORDER BY 1", (archive,)
        )
        return (key for (key,) in rows)

    def by_uid_key(self, archive: str) -> Iterator[tuple[str, str, int]]:
        """(uid key, key, since) of what an archive has held, sorted.

        `since` numbers the runs: it is that of the first one which found the series there.
        """
        return self._table.execute(
            "SELECT uid_key, key, since FROM held WHERE archive = ? ORDER BY 1, 2", (archive,)
        )

    def since(self, archive: str, key: str) -> int:
        """The run that first found a series in an archive; the next one's if none has."""
        (since,) = self._table.execute(
            "SELECT MIN(since) FROM held WHERE archive = ? AND key = ?", (archive, key)
        ).fetchone()
        return self._since if since is None else int(since)

    def is_held(self, key: str) -> bool:
        """Whether any archive has held a series."""
        return scratch_db.exists(self._table, "FROM held WHERE key = ?", (key,))

    def holders(self, key: str) -> list[str]:
        """The archives that have held a series, sorted."""
        rows = self._table.execute(
            "SELECT DISTINCT archive FROM held WHERE key = ? ORDER BY 1", (key,)
        )
        return [archive for (archive,) in rows]

    def remove(self, archive: str, keys: Iterable[str]) -> None:
        """Record that an archive no longer holds these series; `save` writes it."""
        query = "DELETE FROM held WHERE archive = ? AND key = ?"
        self._remove((query, (archive, key)) for key in keys)

    def forget(self, keys: Iterable[str]) -> None:
        """Remove these series from all archives; `save` writes it."""
        self._remove(("DELETE FROM held WHERE key = ?", (key,)) for key in keys)

    def save(self) -> None:
        """Write the table, atomically, with what another run of the root has added."""
        if not self._is_changed:
            return
        with self._root.lock(ARCHIVES_LOCK, wait_seconds=LOCK_WAIT_S):
            self._load()
            self._apply_removals()  # the file still has them
            rows = self._table.execute(
                "SELECT archive, COALESCE(place, ''), key, uid_key, since FROM held"
                " LEFT JOIN places USING (archive) ORDER BY 1, 3, 4"
            )
            parquet.write_table(self._root, ARCHIVES, _COLUMNS, rows)
        self._is_changed = False

    def _remove(self, removals: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        before = self._table.total_changes
        self._removals += removals
        self._apply_removals()
        self._is_changed |= self._table.total_changes > before

    def _apply_removals(self) -> None:
        for query, values in self._removals:
            self._table.execute(query, values)

    def _load(self) -> None:
        """Add the rows of the file; those of this run stay. A damaged file is ignored."""
        try:
            for archive, place, key, uid_key, since in parquet.iter_rows(
                self._root, ARCHIVES, _COLUMNS.names
            ):
                self._table.execute(
                    "INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?)", (archive, key, uid_key, since)
                )
                if place:
                    self._table.execute(
                        "INSERT OR IGNORE INTO places VALUES (?, ?)", (archive, place)
                    )
        except StoreCorrupt as error:
            log.warning("%s; it is made anew, and what archives held before is unknown", error)
