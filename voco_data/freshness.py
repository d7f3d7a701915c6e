"""What was learnt about files that have not changed since: input digest, or why refused.

The cheap level of freshness: path, size and time of change of a series' files lead to its input
digest without a read. `--deep` does without it. Losing this memory costs time, never truth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from voco_data import spill
from voco_data.place import Place
from voco_data.reasons import Reason
from voco_data.spec import ALGORITHM_VERSION, StoreSpec
from voco_data.version import VERSION

log = logging.getLogger(__name__)

KEY = "freshness.parquet"
_COLUMNS = pa.schema((name, pa.string()) for name in ("key", "input_digest", "reason", "detail"))
_TABLE = """CREATE TABLE seen (
    key TEXT PRIMARY KEY, input_digest TEXT, reason TEXT, detail TEXT
) WITHOUT ROWID;"""
_PIECE = 10_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What an earlier run learnt of a series: a digest, or a reason."""

    input_digest: str
    reason: Reason | None
    detail: str


class Freshness:
    """The memory of one root, on disk while a run uses it."""

    def __init__(self, root: Place) -> None:
        self._root = root
        self._seen = spill.connect(_TABLE)
        try:
            self._load()
        except (OSError, ValueError) as error:
            log.warning("%s/%s cannot be read (%s); every series is read again", root, KEY, error)
            self._seen.execute("DELETE FROM seen")

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
            (key, seen.input_digest, seen.reason or "", spill.printable(seen.detail)),
        )

    def forget(self, digests: Iterable[str], remarks: Iterable[tuple[str, str]]) -> int:
        """Drop what leads to these input digests or has these (reason, detail); says how many.

        Files do not tell whose they were: others with the same remark are read again, no more.
        """
        before = self._seen.total_changes
        self._seen.executemany(
            "DELETE FROM seen WHERE input_digest = ? AND input_digest != ''",
            ((digest,) for digest in digests),
        )
        self._seen.executemany("DELETE FROM seen WHERE reason = ? AND detail = ?", remarks)
        return self._seen.total_changes - before

    def save(self) -> None:
        """Write the memory, atomically."""
        lines = self._seen.execute("SELECT key, input_digest, reason, detail FROM seen")
        with self._root.replacing(KEY) as path, pq.ParquetWriter(path, _COLUMNS) as writer:
            while piece := list(islice(lines, _PIECE)):
                columns = [list(column) for column in zip(*piece, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema=_COLUMNS))

    def _load(self) -> None:
        if self._root.size(KEY) is None:
            return
        with self._root.fetched(KEY) as path, pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_PIECE, columns=_COLUMNS.names):
                lines = zip(*(column.to_pylist() for column in batch), strict=True)
                self._seen.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", lines)


def memory_key(stat_digest: str, spec: StoreSpec) -> str:
    """Names what a spec's rules make of files with this stat digest.

    Another version of the reader, or other rules, may judge the same files differently.
    """
    rules = f"{stat_digest} {spec.rules} {ALGORITHM_VERSION} {VERSION}"
    return xxhash.xxh3_128_hexdigest(rules.encode())
