"""What earlier runs learnt about files that have not changed: an input digest, or a refusal.

Path, size and modification time of a series' files lead to its input digest without reading them.
`--deep` ignores this. If the file is lost, series are read again, and nothing else changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import xxhash

from voco_data.errors import StoreCorrupt
from voco_data.reasons import Reason
from voco_data.storage import SEEN_FILES, SEEN_FILES_LOCK, Storage, parquet, scratch_db
from voco_data.store import ALGORITHM_VERSION, StoreSpec
from voco_data.version import VERSION

log = logging.getLogger(__name__)

LOCK_WAIT_S = 60.0
"""Time to wait for another run that writes the file."""
_COLUMNS = pa.schema((name, pa.string()) for name in ("key", "input_digest", "reason", "detail"))
_SCHEMA = """CREATE TABLE seen (
    key TEXT PRIMARY KEY, input_digest TEXT, reason TEXT, detail TEXT
) WITHOUT ROWID;"""


@dataclass(frozen=True, slots=True)
class EarlierResult:
    """What an earlier run learnt about a series: its input digest, or why it was refused."""

    input_digest: str
    reason: Reason | None
    detail: str


class SeenFiles:
    """The entries of one root, in a temporary file while a run uses them."""

    def __init__(self, root: Storage) -> None:
        self._root = root
        self._table = scratch_db.open_scratch_db(_SCHEMA)
        self._removals: list[tuple[str, tuple[str, ...]]] = []
        self._load()

    def close(self) -> None:
        """Remove the temporary file."""
        self._table.close()

    def look_up(self, key: str) -> EarlierResult | None:
        """The entry under a `seen_key`; None if there is none."""
        entry = self._table.execute(
            "SELECT input_digest, reason, detail FROM seen WHERE key = ?", (key,)
        ).fetchone()
        if entry is None:
            return None
        digest, reason, detail = entry
        return EarlierResult(digest, Reason(reason) if reason else None, detail)

    def add_digests(self, digests: Iterable[tuple[str, str]], spec: StoreSpec) -> None:
        """Add the (stat digest, input digest) of records: a killed run has saved no entries."""
        self._table.executemany(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, '', '')",
            ((seen_key(stat, spec), digest) for stat, digest in digests),
        )

    def set(self, key: str, result: EarlierResult) -> None:
        """Set an entry; `save` writes it."""
        self._table.execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)",
            (
                key,
                result.input_digest,
                result.reason or "",
                scratch_db.escape_undecodable(result.detail),
            ),
        )

    def forget(self, digests: Iterable[str], remarks: Iterable[tuple[str, str]]) -> int:
        """Remove entries with these input digests or these (reason, detail); returns their number.

        An entry does not name its series. So the entries of other series with the same reason and
        detail are removed, too, and these series are read again.
        """
        before = self._table.total_changes
        self._removals += [
            ("DELETE FROM seen WHERE input_digest = ?", (digest,)) for digest in digests if digest
        ]
        self._removals += [
            ("DELETE FROM seen WHERE reason = ? AND detail = ?", remark) for remark in remarks
        ]
        self._apply_removals()
        return self._table.total_changes - before

    def _apply_removals(self) -> None:
        for query, values in self._removals:
            self._table.execute(query, values)

    def save(self) -> None:
        """Write all entries, atomically, with those that another run of the root has added."""
        with self._root.lock(SEEN_FILES_LOCK, wait_seconds=LOCK_WAIT_S):
            self._load()
            self._apply_removals()  # the file still has them
            entries = self._table.execute("SELECT key, input_digest, reason, detail FROM seen")
            parquet.write_table(self._root, SEEN_FILES, _COLUMNS, entries)

    def _load(self) -> None:
        """Add the entries of the file; those of this run stay. A damaged file is ignored."""
        try:
            self._table.executemany(
                "INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?)",
                parquet.iter_rows(self._root, SEEN_FILES, _COLUMNS.names),
            )
        except StoreCorrupt as error:
            log.warning("%s; it is made anew", error)


def seen_key(stat_digest: str, spec: StoreSpec) -> str:
    """Compute the key of an entry: files with this stat digest, read under the rules of a spec.

    It depends on the version of the reader, as another one may give another result.
    """
    rules = f"{stat_digest} {spec.volume_rules} {ALGORITHM_VERSION} {VERSION}"
    return xxhash.xxh3_128_hexdigest(rules.encode())
