"""Results of a run, by series, and the rows of the ledger that are made from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from voco_data.executors import SeriesOutcome
from voco_data.ingest.named_cohort import NamedCohort, NamedSeries
from voco_data.ingest.plan import earlier_results, group_by_rules
from voco_data.ingest.seen_files import SeenFiles
from voco_data.qc import LedgerRow, Status
from voco_data.reasons import SKIPPED, Reason
from voco_data.storage import scratch_db
from voco_data.store import Line, StoreWriter

COPIED_COLUMNS = (
    "n_slices",
    "rows",
    "columns",
    "spacing_z_mm",
    "spacing_y_mm",
    "spacing_x_mm",
    "z_low_mm",
    "z_high_mm",
    "transfer_syntax",
    "box_method",
    "box_confidence",
    "box_z_low_mm",
    "box_z_high_mm",
    "hu_p5",
    "hu_median",
    "hu_p95",
    "input_digest",
)
"""Columns that a ledger row takes from the catalogue as they are."""

_SCHEMA = """
CREATE TABLE results (
    key TEXT, input_digest TEXT, reason TEXT, detail TEXT, store TEXT, row INTEGER
);
CREATE INDEX by_key ON results (key);
"""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one series under one set of rules."""

    input_digest: str
    reason: Reason | None
    detail: str
    committed: tuple[str, int] | None
    """Spec digest of a store that the series was committed to, and its row there."""


class RunResults:
    """Results of the series that a run has read, by series key, in a temporary file."""

    def __init__(self) -> None:
        self._table = scratch_db.open_scratch_db(_SCHEMA)

    def close(self) -> None:
        """Remove the temporary file."""
        self._table.close()

    def add(self, outcome: SeriesOutcome) -> None:
        """Add one outcome, without its records."""
        record = outcome.records[0] if outcome.records else None
        store, row = ("", -1) if record is None else (record.spec_digest, record.row)
        detail = scratch_db.escape_undecodable(outcome.detail)
        self._table.execute(
            "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)",
            (outcome.key, outcome.input_digest, outcome.reason or "", detail, store, row),
        )

    def get(self, key: str) -> list[Result]:
        """Return one result for each set of rules under which the series was read."""
        rows = self._table.execute(
            "SELECT input_digest, reason, detail, store, row FROM results WHERE key = ?"
            " ORDER BY rowid",
            (key,),
        )
        return [
            Result(
                input_digest=digest,
                reason=Reason(reason) if reason else None,
                detail=detail,
                committed=(store, row) if store else None,
            )
            for digest, reason, detail, store, row in rows
        ]


def ledger_rows(
    cohort: NamedCohort, results: RunResults, seen_files: SeenFiles, stores: Sequence[StoreWriter]
) -> Iterator[LedgerRow]:
    """Iterate over a row for each series, and one for each file that belongs to none.

    The results of series that this run has not read are in `seen_files`. Duplicates are looked up
    in the stores, which hold what this run has committed.
    """
    groups = group_by_rules(stores)
    for series in cohort:
        series_results = results.get(series.key)
        for _, _, seen in earlier_results(series, groups, seen_files):
            if seen is not None:
                series_results.append(Result(seen.input_digest, seen.reason, seen.detail, None))
        yield _series_row(series, series_results, stores)
    for source, file in cohort.odd_files():
        yield LedgerRow(
            kind="file",
            source=source,
            series_uid="",
            patient_id="",
            status=_refusal_status(file.reason),
            reason=file.reason,
            detail=file.detail,
        )


class _SeriesNames(TypedDict):
    """The columns of a ledger row that name its series."""

    kind: Literal["series"]
    source: str
    series_uid: str
    patient_id: str


def _series_row(
    series: NamedSeries, results: Sequence[Result], stores: Sequence[StoreWriter]
) -> LedgerRow:
    """The row of a series: refused if any result is, else stored or cached."""
    names: _SeriesNames = {
        "kind": "series",
        "source": series.source,
        "series_uid": series.series_uid,
        "patient_id": series.patient_id,
    }
    for result in results:
        if result.reason is not None:
            return LedgerRow(
                **names,
                status=_refusal_status(result.reason),
                reason=result.reason,
                detail=result.detail,
                n_slices=series.head.n_slices if series.head.kind == "dicom" else None,
            )
    for result in results:
        if result.committed is not None:
            digest, row = result.committed
            line = next(
                store.index.line_of_row(row) for store in stores if store.spec.digest == digest
            )
            return _volume_row(names, "stored", line, series, stores)
    lines = (
        store.index.line_of_input(result.input_digest) for result in results for store in stores
    )
    return _volume_row(names, "cached", next(filter(None, lines), None), series, stores)


def _refusal_status(reason: Reason) -> Status:
    return "skipped" if reason in SKIPPED else "refused"


def _volume_row(
    names: _SeriesNames,
    status: Status,
    line: Line | None,
    series: NamedSeries,
    stores: Sequence[StoreWriter],
) -> LedgerRow:
    """The row of a series that is in a store, with the columns of its catalogue line."""
    assert line is not None, f"{series.key}: a {status} series is in a store"
    original = _find_original(line["content_digest"], series, stores)
    return LedgerRow(
        **names,
        status=status,
        **{name: line[name] for name in COPIED_COLUMNS},
        flags=_join_flags(line["flags"], series.head.flag_text, "duplicate" if original else ""),
        duplicate_of=original,
    )


def _join_flags(*texts: str) -> str:
    """The flags of all texts, each once: an earlier run may not have seen those of the index."""
    return " ".join(dict.fromkeys(flag for text in texts for flag in text.split()))


def _find_original(content_digest: str, series: NamedSeries, stores: Sequence[StoreWriter]) -> str:
    """Series id of the first series with equal content; empty if that is `series` itself."""
    identities = (store.index.first_series_of_content(content_digest) for store in stores)
    patient_id, series_uid = min(
        (identity for identity in identities if identity is not None),
        key=lambda identity: identity[::-1],
    )
    return "" if (patient_id, series_uid) == series.identity else series_uid
