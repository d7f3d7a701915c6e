"""The series that each archive has held, so that `--prune` knows which rows came from SOURCE.

A root may be filled from several archives. Every run records the keys of the series that it finds
before it reads them. An archive is known by the absolute path of SOURCE; links are not followed.
For a root in an object store, which several machines may fill, the name of the machine belongs to
it. Only a hash of this is written.

If the table is lost, the next run over each archive records what it holds then. Series that are
gone by that time have no archive, and are never pruned.
"""

from __future__ import annotations

import logging
import os
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
    parquet,
    scratch_db,
)

log = logging.getLogger(__name__)

LOCK_WAIT_S = 60.0
"""Time to wait for another run that writes the table."""
_COLUMNS = pa.schema([("archive", pa.string()), ("key", pa.string())])
_SCHEMA = """
CREATE TABLE held (archive TEXT, key TEXT, PRIMARY KEY (archive, key)) WITHOUT ROWID;
CREATE INDEX by_key ON held (key);
"""


def archive_id(source: Path, root: ReadableStorage, pseudonymiser: Pseudonymiser | None) -> str:
    """The id of the archive at `source` in a root: a keyed hash if ids are hidden, as is a path."""
    place = os.path.normpath(source.absolute())
    if root.local_folder() is None:
        place = f"{socket.gethostname()}:{place}"
    if pseudonymiser is None:
        return xxhash.xxh3_128_hexdigest(place.encode(errors="surrogateescape"))
    return pseudonymiser("archive", place)


class Archives:
    """Pairs of archive id and series key of one root, in a temporary file while a run uses them."""

    def __init__(self, root: Storage) -> None:
        self._root = root
        self._table = scratch_db.open_scratch_db(_SCHEMA)
        self._removals: list[tuple[str, tuple[str, ...]]] = []
        self._is_changed = False
        self._load()

    def close(self) -> None:
        """Remove the temporary file."""
        self._table.close()

    def add(self, archive: str, keys: Iterable[str]) -> None:
        """Record that an archive holds these series; `save` writes it."""
        before = self._table.total_changes
        self._table.executemany(
            "INSERT OR IGNORE INTO held VALUES (?, ?)", ((archive, key) for key in keys)
        )
        self._is_changed |= self._table.total_changes > before

    def keys_of(self, archive: str) -> Iterator[str]:
        """Iterate over the keys of the series that an archive has held, sorted."""
        rows = self._table.execute("SELECT key FROM held WHERE archive = ? ORDER BY 1", (archive,))
        return (key for (key,) in rows)

    def is_held(self, key: str) -> bool:
        """Whether any archive has held a series."""
        return scratch_db.exists(self._table, "FROM held WHERE key = ?", (key,))

    def is_held_elsewhere(self, archive: str, key: str) -> bool:
        """Whether another archive has held a series, too."""
        return scratch_db.exists(
            self._table, "FROM held WHERE key = ? AND archive != ?", (key, archive)
        )

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
            pairs = self._table.execute("SELECT archive, key FROM held ORDER BY 1, 2")
            parquet.write_table(self._root, ARCHIVES, _COLUMNS, pairs)
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
        """Add the pairs of the file; those of this run stay. A damaged file is ignored."""
        try:
            self._table.executemany(
                "INSERT OR IGNORE INTO held VALUES (?, ?)",
                parquet.iter_rows(self._root, ARCHIVES, _COLUMNS.names),
            )
        except StoreCorrupt as error:
            log.warning("%s; it is made anew, and what archives held before is unknown", error)
