"""What was learnt about files that have not changed since: input digest, or why refused.

The cheap level of freshness: path, size and time of change of a series' files lead to its input
digest without a read. `--deep` does without it. Losing this file costs time, never truth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import xxhash

from voco_data import lock, tables
from voco_data.errors import StoreCorrupt
from voco_data.reasons import Reason
from voco_data.spec import ALGORITHM_VERSION, StoreSpec
from voco_data.version import VERSION

log = logging.getLogger(__name__)

FILE = "freshness.parquet"
LOCK_FILE = ".freshness.lock"
LOCK_S = 60.0
"""Writing it takes another run a moment."""
_COLUMNS = ["key", "input_digest", "reason", "detail"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What an earlier run learnt of a series: a digest, or a reason."""

    input_digest: str
    reason: Reason | None
    detail: str


class Freshness:
    """The memory of one root."""

    def __init__(self, root: Path) -> None:
        self._path = root / FILE
        self._seen = _read(self._path)

    def look_up(self, stat_digest: str, spec: StoreSpec) -> Seen | None:
        """What is known of a series whose files have this stat digest, under the spec's rules."""
        return self._seen.get(_key(stat_digest, spec))

    def adopt(self, catalogue: pd.DataFrame, spec: StoreSpec) -> None:
        """Learn from a store's records, which survive a run that was killed."""
        for stat_digest, digest in zip(
            catalogue["stat_digest"], catalogue["input_digest"], strict=True
        ):
            self._seen.setdefault(_key(stat_digest, spec), Seen(digest, None, ""))

    def remember(self, stat_digest: str, spec: StoreSpec, seen: Seen) -> None:
        """Keep what a run has learnt; `save` writes it."""
        self._seen[_key(stat_digest, spec)] = seen

    def save(self) -> None:
        """Write the memory, atomically, with what another run of the root has added to it."""
        with lock.exclusive(self._path.with_name(LOCK_FILE), wait_seconds=LOCK_S):
            self._seen = _read(self._path) | self._seen
            self._write()

    def _write(self) -> None:
        rows: Iterable[tuple[str, str, str, str]] = (
            (key, seen.input_digest, seen.reason or "", seen.detail)
            for key, seen in self._seen.items()
        )
        tables.write(self._path, pd.DataFrame(rows, columns=_COLUMNS, dtype="string"))


def _read(path: Path) -> dict[str, Seen]:
    """What is remembered; nothing where the file is damaged: then all is read again."""
    try:
        table = tables.read(path, dict.fromkeys(_COLUMNS, "string"))
    except StoreCorrupt as error:
        log.warning("%s; it is made anew", error)
        return {}
    if table is None:
        return {}
    return {
        key: Seen(digest, Reason(reason) if reason else None, detail)
        for key, digest, reason, detail in table.itertuples(index=False)
    }


def _key(stat_digest: str, spec: StoreSpec) -> str:
    """Another version of the reader, or other rules, may judge the same files differently."""
    rules = f"{stat_digest} {spec.rules} {ALGORITHM_VERSION} {VERSION}"
    return xxhash.xxh3_128_hexdigest(rules.encode())
