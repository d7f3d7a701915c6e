"""What was learnt about files that have not changed since: input digest, or why refused.

The cheap level of freshness: path, size and time of change of a series' files lead to its input
digest without a read. `--deep` does without it. Losing this memory costs time, never truth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import xxhash

from voco_data.errors import StoreCorrupt
from voco_data.reasons import Reason
from voco_data.storage import parquet, scratch_db
from voco_data.storage.base import Storage
from voco_data.storage.root import SEEN_FILES, SEEN_FILES_LOCK
from voco_data.store.spec import ALGORITHM_VERSION, StoreSpec
from voco_data.version import VERSION

log = logging.getLogger(__name__)

LOCK_S = 60.0
"""Writing it takes another run a moment."""
_COLUMNS = pa.schema((name, pa.string()) for name in ("key", "input_digest", "reason", "detail"))
_TABLE = """CREATE TABLE seen (
    key TEXT PRIMARY KEY, input_digest TEXT, reason TEXT, detail TEXT
) WITHOUT ROWID;"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an earlier run learnt of a series: a digest, or a reason."""

    input_digest: str
    reason: Reason | None
    detail: str


class SeenFiles:
    """The memory of one root, on disk while a run uses it."""

    def __init__(self, root: Storage) -> None:
        self._root = root
        self._seen = scratch_db.open_scratch_db(_TABLE)
        self._forgotten: list[tuple[str, tuple[str, ...]]] = []
        self._load()

    def close(self) -> None:
        """Give the disk space back."""
        self._seen.close()

    def look_up(self, key: str) -> Seen | None:
        """What is known of the series with this `memory_key`."""
        found = self._seen.execute(
            "SELECT input_digest, reason, detail FROM seen WHERE key = ?", (key,)
        ).fetchone()
        if found is None:
            return None
        digest, reason, detail = found
        return Seen(digest, Reason(reason) if reason else None, detail)

    def adopt(self, digests: Iterable[tuple[str, str]], spec: StoreSpec) -> None:
        """Learn the (stat digest, input digest) of records, which survive a run that was killed."""
        self._seen.executemany(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, '', '')",
            ((memory_key(stat, spec), digest) for stat, digest in digests),
        )

    def remember(self, key: str, seen: Seen) -> None:
        """Keep what a run has learnt; `save` writes it."""
        self._seen.execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)",
            (key, seen.input_digest, seen.reason or "", scratch_db.escape_undecodable(seen.detail)),
        )

    def forget(self, digests: Iterable[str], remarks: Iterable[tuple[str, str]]) -> int:
        """Drop what leads to these input digests or has these (reason, detail); says how many.

        Files do not tell whose they were: others with the same remark are read again, no more.
        """
        before = self._seen.total_changes
        self._forgotten += [
            *(
                ("DELETE FROM seen WHERE input_digest = ?", (digest,))
                for digest in digests
                if digest
            ),
            *(("DELETE FROM seen WHERE reason = ? AND detail = ?", remark) for remark in remarks),
        ]
        self._drop_forgotten()
        return self._seen.total_changes - before

    def _drop_forgotten(self) -> None:
        for query, values in self._forgotten:
            self._seen.execute(query, values)

    def save(self) -> None:
        """Write the memory, atomically, with what another run of the root has added to it."""
        with self._root.lock(SEEN_FILES_LOCK, wait_seconds=LOCK_S):
            self._load()
            self._drop_forgotten()  # the file still had it
            found = self._seen.execute("SELECT key, input_digest, reason, detail FROM seen")
            parquet.write_table(self._root, SEEN_FILES, _COLUMNS, found)

    def _load(self) -> None:
        """Take up the file; what this run knows already stays. A damaged one is left alone."""
        try:
            self._seen.executemany(
                "INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?)",
                parquet.iter_rows(self._root, SEEN_FILES, _COLUMNS.names),
            )
        except StoreCorrupt as error:
            log.warning("%s; it is made anew", error)


def memory_key(stat_digest: str, spec: StoreSpec) -> str:
    """Names what a spec's rules make of files with this stat digest.

    Another version of the reader, or other rules, may judge the same files differently.
    """
    rules = f"{stat_digest} {spec.rules} {ALGORITHM_VERSION} {VERSION}"
    return xxhash.xxh3_128_hexdigest(rules.encode())
