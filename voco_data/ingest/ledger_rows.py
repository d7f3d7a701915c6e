"""Account for everything an archive holds: what became of it, and the stores, as ledger rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from voco_data.ingest.plan import NamedCohort, NamedSeries, by_rules
from voco_data.ingest.results import Result, RunResults
from voco_data.ingest.seen_files import SeenFiles, memory_key
from voco_data.qc.ledger import LedgerRow, Status
from voco_data.reasons import SKIPPED, Reason
from voco_data.store.catalogue import Line
from voco_data.store.writer import StoreWriter

FACTS = (
    *("n_slices", "rows", "columns", "spacing_z_mm", "spacing_y_mm", "spacing_x_mm"),
    *("z_low_mm", "z_high_mm", "transfer_syntax", "box_method", "box_confidence"),
    *("box_z_low_mm", "box_z_high_mm", "hu_p5", "hu_median", "hu_p95", "input_digest"),
)
"""What a ledger row takes from the catalogue as it is."""


def ledger_rows(
    series: NamedCohort, outcomes: RunResults, freshness: SeenFiles, writers: Sequence[StoreWriter]
) -> Iterator[LedgerRow]:
    """A row a series, and a row a file that belongs to none, one at a time.

    The writers hold what this run committed: duplicates are looked up there. What was not read is
    in `freshness`.
    """
    for item in series:
        results = outcomes.of(item.key)
        for group in by_rules(writers):
            seen = freshness.look_up(memory_key(item.stat_digest, group[0].spec))
            if seen is not None:
                results.append(Result(seen.input_digest, seen.reason, seen.detail, None))
        yield _series_row(item, results, writers)
    for source, file in series.odd_files():
        yield LedgerRow("file", source, "", "", _status(file.reason), file.reason, file.detail)


def _series_row(
    item: NamedSeries, results: Sequence[Result], writers: Sequence[StoreWriter]
) -> LedgerRow:
    names: dict[str, Any] = {
        "kind": "series",
        "source": item.source,
        "series_uid": item.series_uid,
        "patient_id": item.patient_id,
    }
    for result in results:
        if result.reason is not None:
            return _refused(names, item, result.reason, result.detail)
    for result in results:
        if result.committed is not None:
            digest, row = result.committed
            line = next(w.index.at(row) for w in writers if w.spec.digest == digest)
            return _with_facts(names, "stored", line, item, writers)
    lines = (w.index.of_input(result.input_digest) for result in results for w in writers)
    return _with_facts(names, "cached", next(filter(None, lines), None), item, writers)


def _status(reason: Reason) -> Status:
    return "skipped" if reason in SKIPPED else "refused"


def _refused(names: dict[str, Any], item: NamedSeries, reason: Reason, detail: str) -> LedgerRow:
    slices = item.head.n_slices if item.head.kind == "dicom" else None
    return LedgerRow(**names, status=_status(reason), reason=reason, detail=detail, n_slices=slices)


def _with_facts(
    names: dict[str, Any],
    status: Status,
    line: Line | None,
    item: NamedSeries,
    writers: Sequence[StoreWriter],
) -> LedgerRow:
    assert line is not None, f"{item.key}: a {status} series is in a store"
    twin = _duplicate_of(line["content_digest"], item, writers)
    return LedgerRow(
        **names,
        status=status,
        **{name: line[name] for name in FACTS},
        flags=" ".join(filter(None, (line["flags"], "duplicate" if twin else ""))),
        duplicate_of=twin,
    )


def _duplicate_of(content: str, item: NamedSeries, writers: Sequence[StoreWriter]) -> str:
    """Series id of the first series with equal content; empty if that is `item` itself."""
    found = [first for w in writers if (first := w.index.first_of_content(content)) is not None]
    patient_id, series_uid = min(found, key=lambda identity: identity[::-1])
    return "" if (patient_id, series_uid) == item.identity else series_uid
