"""Account for everything an archive holds: outcomes and catalogues become ledger rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from voco_data.ledger import LedgerRow, Status
from voco_data.plan import NamedCohort, NamedSeries, Plan
from voco_data.reasons import SKIPPED, Reason
from voco_data.record import Record, read_record
from voco_data.store_writer import StoreWriter
from voco_data.worker import SeriesOutcome


def ledger_rows(
    series: NamedCohort,
    plan: Plan,
    outcomes: Sequence[SeriesOutcome],
    writers: Sequence[StoreWriter],
) -> Iterator[LedgerRow]:
    """A row a series, and a row a file that belongs to none, one at a time.

    The writers' tables hold what this run committed: duplicates are looked up there.
    """
    done: dict[str, list[SeriesOutcome]] = {}
    for outcome in outcomes:
        done.setdefault(outcome.key, []).append(outcome)
    held = _Held(writers)
    for item in series:
        yield _series_row(item, plan, done.get(item.key, []), held)
    for source, file in series.odd_files():
        status: Status = "skipped" if file.reason in SKIPPED else "refused"
        yield LedgerRow("file", source, "", "", status, file.reason, file.detail)


class _Held:
    """Records of the stores, found by input digest, and the first of equal content."""

    def __init__(self, writers: Sequence[StoreWriter]) -> None:
        self._rows = {
            digest: (writer, row)
            for writer in writers
            for digest, row in zip(writer.table["input_digest"], writer.table["row"], strict=True)
        }
        self._first: dict[str, tuple[str, str]] = {}
        for writer in writers:
            names = ("content_digest", "series_uid", "patient_id")
            columns = (writer.table[name] for name in names)
            for digest, *identity in zip(*columns, strict=True):
                series_uid, patient_id = identity
                first = self._first.get(digest, (series_uid, patient_id))
                self._first[digest] = min(first, (series_uid, patient_id))

    def duplicate_of(self, record: Record, item: NamedSeries) -> str:
        """Series id of the first series with equal content; empty if that is `item` itself."""
        series_uid, patient_id = self._first[record.content_digest]
        return "" if (patient_id, series_uid) == item.identity else series_uid

    def record(self, digest: str) -> Record | None:
        if digest not in self._rows:
            return None
        writer, row = self._rows[digest]
        return read_record(writer.path, row)


def _series_row(
    item: NamedSeries, plan: Plan, outcomes: Sequence[SeriesOutcome], held: _Held
) -> LedgerRow:
    names: dict[str, Any] = {
        "kind": "series",
        "source": item.source,
        "series_uid": item.series_uid,
        "patient_id": item.patient_id,
    }
    refusal = next((o for o in outcomes if o.reason is not None), None) or plan.seen.get(item.key)
    if refusal is not None and refusal.reason is not None:
        return _refused(names, item, refusal.reason, refusal.detail)
    committed = [record for outcome in outcomes for record in outcome.records]
    if committed:
        names["duplicate_of"] = held.duplicate_of(committed[0], item)
        return _with_facts(names, "stored", committed[0])
    digest = outcomes[0].input_digest if outcomes else plan.seen[item.key].input_digest
    record = held.record(digest)
    assert record is not None, f"{item.key}: a cached series has a record"
    names["duplicate_of"] = held.duplicate_of(record, item)
    return _with_facts(names, "cached", record)


def _refused(names: dict[str, Any], item: NamedSeries, reason: Reason, detail: str) -> LedgerRow:
    status: Status = "skipped" if reason in SKIPPED else "refused"
    slices = item.head.n_slices if item.head.kind == "dicom" else None
    return LedgerRow(**names, status=status, reason=reason, detail=detail, n_slices=slices)


def _with_facts(names: dict[str, Any], status: Status, record: Record) -> LedgerRow:
    step = record.spacing_mm[0]
    low = record.canonical_first_mm[0] - step / 2
    return LedgerRow(
        **names,
        status=status,
        n_slices=record.shape[0],
        rows=record.shape[1],
        columns=record.shape[2],
        spacing_z_mm=record.spacing_mm[0],
        spacing_y_mm=record.spacing_mm[1],
        spacing_x_mm=record.spacing_mm[2],
        z_low_mm=low,
        z_high_mm=low + record.canonical_shape[0] * step,
        transfer_syntax=record.transfer_syntax,
        box_method=record.box_method,
        box_z_low_mm=record.box_low_mm[0],
        box_z_high_mm=record.box_high_mm[0],
        box_confidence=record.box_confidence,
        flags=" ".join((*record.flags, *(["duplicate"] if names["duplicate_of"] else []))),
        input_digest=record.input_digest,
    )
