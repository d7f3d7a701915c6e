"""What became of the series that a run has read: a table on disk."""

from __future__ import annotations

from dataclasses import dataclass

from voco_data.executors.worker import SeriesOutcome
from voco_data.reasons import Reason
from voco_data.storage import scratch_db

_TABLE = """
CREATE TABLE outcomes (
    key TEXT, input_digest TEXT, reason TEXT, detail TEXT, store TEXT, row INTEGER
);
CREATE INDEX by_key ON outcomes (key);
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one series, under one set of rules."""

    input_digest: str
    reason: Reason | None
    detail: str
    committed: tuple[str, int] | None
    """Spec digest of a store that it was committed to, and its row there."""


class RunResults:
    """Results by the key of their series."""

    def __init__(self) -> None:
        self._table = scratch_db.open_scratch_db(_TABLE)

    def close(self) -> None:
        """Give the disk space back."""
        self._table.close()

    def note(self, outcome: SeriesOutcome) -> None:
        """Keep one outcome; its records are the store's affair."""
        first = outcome.records[0] if outcome.records else None
        store, row = ("", -1) if first is None else (first.spec_digest, first.row)
        detail = scratch_db.escape_undecodable(outcome.detail)
        self._table.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?)",
            (outcome.key, outcome.input_digest, outcome.reason or "", detail, store, row),
        )

    def of(self, key: str) -> list[Result]:
        """One result a set of rules under which the series was read; none if it was not."""
        found = self._table.execute(
            "SELECT input_digest, reason, detail, store, row FROM outcomes WHERE key = ?"
            " ORDER BY rowid",
            (key,),
        )
        return [
            Result(
                digest, Reason(reason) if reason else None, detail, (store, row) if store else None
            )
            for digest, reason, detail, store, row in found
        ]
