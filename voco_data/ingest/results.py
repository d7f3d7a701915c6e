"""Results of a run, by series, and the rows of the ledger that are made from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Literal, TypedDict

from voco_data.executors import SeriesOutcome
from voco_data.ingest.cohort_keys import CohortKeys, Exclusion
from voco_data.ingest.input_results import own_key
from voco_data.ingest.named_cohort import NamedCohort, NamedSeries
from voco_data.ingest.plan import StoreGroup, earlier_results, group_by_rules
from voco_data.ingest.seen_files import SeenFiles
from voco_data.qc import LedgerRow, Status
from voco_data.reasons import SKIPPED, Reason
from voco_data.storage import scratch_db
from voco_data.store import Line, SeriesIdentity, StoreWriter, series_key

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

EARLIER_VOLUME = "earlier_volume"
"""The flag of a refused series of which a store has a volume: the files have changed since, or it
is from a copy of them."""

_MAX_CACHED_ORIGINALS = 1024
"""Contents whose original is in memory."""

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
    cohort: NamedCohort,
    keys: CohortKeys,
    results: RunResults,
    seen_files: SeenFiles,
    stores: Sequence[StoreWriter],
    refused_with_volume: Collection[int],
) -> Iterator[LedgerRow]:
    """Iterate over a row for each series, and one for each file that belongs to none.

    `refused_with_volume` are numbers of refused series of which the stores have an earlier volume
    under other ids. The results of series that this run has not read are in `seen_files`.
    Duplicates are looked up in the stores, which hold what this run has committed.
    """
    groups = group_by_rules(stores)
    originals = _Originals(keys, stores)
    for series in cohort:
        exclusion, other = keys.exclusion(series.head.number) or (None, -1)
        if exclusion == "conflict":
            row = _conflict_row(series, cohort[other], stores)
        elif exclusion == "elsewhere":
            row = _elsewhere_row(series)
        else:
            found = results_of(series, exclusion, results, groups, seen_files)
            row = _series_row(series, found, stores, originals, is_copy=exclusion == "copy")
        if series.head.number in refused_with_volume and row.status == "refused":
            row = replace(row, flags=_join_flags(row.flags, EARLIER_VOLUME))
        yield row
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


def results_of(
    series: NamedSeries,
    exclusion: Exclusion | None,
    results: RunResults,
    groups: Sequence[StoreGroup],
    seen_files: SeenFiles,
) -> list[Result]:
    """The results of this run, and of earlier runs over the same files."""
    if exclusion is None:
        found = results.get(series.key)
    else:
        found = results.get(own_key(series.key, series.head.number))
    for _, _, seen in earlier_results(series, groups, seen_files):
        if seen is not None:
            found.append(Result(seen.input_digest, seen.reason, seen.detail, None))
    if exclusion == "copy":  # the series that was to be stored may have been refused after all
        found += [result for result in results.get(series.key) if result.reason is not None]
    return found


class _SeriesNames(TypedDict):
    """The columns of a ledger row that name its series."""

    kind: Literal["series"]
    source: str
    series_uid: str
    study_uid: str
    patient_id: str


def _names(series: NamedSeries) -> _SeriesNames:
    return {
        "kind": "series",
        "source": series.source,
        "series_uid": series.series_uid,
        "study_uid": series.study_uid,
        "patient_id": series.patient_id,
    }


def _conflict_row(
    series: NamedSeries, other: NamedSeries, stores: Sequence[StoreWriter]
) -> LedgerRow:
    """The row of a series whose ids another series of the archive has, too."""
    return LedgerRow(
        **_names(series),
        status=_refusal_status(Reason.IDENTITY_CONFLICT),
        reason=Reason.IDENTITY_CONFLICT,
        detail=(
            f"{other.source} has the same patient, study and series ids and other contents; "
            "remove one of the two, or give it ids of its own"
        ),
        n_slices=series.head.n_slices or None,
        flags=_earlier_volume(series, stores),
    )


def _elsewhere_row(series: NamedSeries) -> LedgerRow:
    """The row of a series of which another archive has the row in the stores."""
    return LedgerRow(
        **_names(series),
        status=_refusal_status(Reason.IDENTITY_CONFLICT),
        reason=Reason.IDENTITY_CONFLICT,
        detail=(
            "another archive of this root holds other contents under the same ids, and the files"
            " name no patient or series; give the folder above both archives as SOURCE, or"
            " patients with --ids"
        ),
        n_slices=series.head.n_slices if series.head.kind == "dicom" else None,
    )


def is_stored(
    series: NamedSeries,
    exclusion: Exclusion | None,
    results: Sequence[Result],
    store: StoreWriter,
) -> bool:
    """Whether a store has a series with the contents that it has now, by its results."""
    return exclusion in (None, "copy") and any(
        result.reason is None
        and store.index.line_of_series(series.identity, result.input_digest) is not None
        for result in results
    )


def _series_row(
    series: NamedSeries,
    results: Sequence[Result],
    stores: Sequence[StoreWriter],
    originals: _Originals,
    *,
    is_copy: bool,
) -> LedgerRow:
    """The row of a series: refused if any result is, else stored or cached."""
    names = _names(series)
    for result in results:
        if result.reason is not None:
            is_refused_by_all = all(other.reason is not None for other in results)
            return LedgerRow(
                **names,
                status=_refusal_status(result.reason),
                reason=result.reason,
                detail=result.detail,
                n_slices=series.head.n_slices or None,
                flags=_earlier_volume(series, stores) if is_refused_by_all else "",
            )
    for result in results:
        if result.committed is not None:
            digest, row = result.committed
            line = next(
                store.index.line_of_row(row) for store in stores if store.spec.digest == digest
            )
            return _volume_row(names, "stored", line, series, originals, is_copy=is_copy)
    lines = (
        store.index.line_of_series(series.identity, result.input_digest)
        for result in results
        for store in stores
    )
    line = next(filter(None, lines), None)
    return _volume_row(names, "cached", line, series, originals, is_copy=is_copy)


def _earlier_volume(series: NamedSeries, stores: Sequence[StoreWriter]) -> str:
    """EARLIER_VOLUME if a store has a volume of the series, else empty."""
    has_volume = any(store.index.has_series(series.identity) for store in stores)
    return EARLIER_VOLUME if has_volume else ""


def _refusal_status(reason: Reason) -> Status:
    return "skipped" if reason in SKIPPED else "refused"


def _volume_row(
    names: _SeriesNames,
    status: Status,
    line: Line | None,
    series: NamedSeries,
    originals: _Originals,
    *,
    is_copy: bool,
) -> LedgerRow:
    """The row of a series that is in a store, with the columns of its catalogue line."""
    assert line is not None, f"{series.key}: a {status} series is in a store"
    original = originals.duplicated_series(line["content_digest"], series)
    if is_copy:
        original = original or series.series_uid
    return LedgerRow(
        **names,
        status=status,
        **{name: line[name] for name in COPIED_COLUMNS},
        flags=_join_flags(line["flags"], series.head.flag_text, "duplicate" if original else ""),
        duplicate_of=original,
    )


class _Originals:
    """The series, of all with equal content, that the others are duplicates of.

    It is one that the archive of this run does not hold, if there is any: then the archive has a
    volume that was stored before under another id. Else it is the first of the archive.
    """

    def __init__(self, keys: CohortKeys, stores: Sequence[StoreWriter]) -> None:
        self._keys = keys
        self._stores = stores
        self._find = lru_cache(_MAX_CACHED_ORIGINALS)(self._find_uncached)

    def duplicated_series(self, content_digest: str, series: NamedSeries) -> str:
        """The id of the series that `series` duplicates; empty if it is the original itself.

        The patient id stands before it if the series ids are equal, and the study id between them
        if the patient ids are equal, too.
        """
        original = self._find(content_digest)
        if original == series.identity:
            return ""
        if original.series_uid != series.series_uid:
            return original.series_uid
        if original.patient_id != series.patient_id:
            return f"{original.patient_id}/{original.series_uid}"
        return "/".join(original)

    def _find_uncached(self, content_digest: str) -> SeriesIdentity:
        return min(
            chain.from_iterable(
                store.index.series_of_content(content_digest) for store in self._stores
            ),
            key=lambda one: (
                series_key(one) in self._keys,
                one.series_uid,
                one.patient_id,
                one.study_uid,
            ),
        )


def _join_flags(*texts: str) -> str:
    """The flags of all texts, each once: an earlier run may not have seen those of the index."""
    return " ".join(dict.fromkeys(flag for text in texts for flag in text.split()))
