"""One patient in the ledgers and reports of preprocess runs: find its rows, and remove them."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voco_data.errors import StoreCorrupt
from voco_data.qc import ledger, report
from voco_data.storage import REPORT, RUNS_FOLDER, ReadableStorage, Storage, parquet

log = logging.getLogger(__name__)

TRACE_COLUMNS = (
    "kind",
    "series_uid",
    "study_uid",
    "patient_id",
    "source",
    "reason",
    "detail",
    "input_digest",
)
"""Columns of a ledger by which a patient's series and files are found.

Ledgers of older versions have no `study_uid`.
"""
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


class IdMatcher:
    """Finds ids in paths and texts. Ids are literal texts, not patterns."""

    def __init__(self, ids: Collection[str]) -> None:
        self._ids = tuple(ids)
        words = "|".join(re.escape(name) for name in sorted(ids))
        self._pattern = re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")

    def matches_path(self, path: str) -> bool:
        """Whether a part of the path, up to a dot in its name, is one of the ids."""
        parts = path.split("/")
        return any(
            part == name or part.startswith(f"{name}.") for part in parts for name in self._ids
        )

    def matches_text(self, text: str) -> bool:
        """Whether one of the ids is a word of the text."""
        return self._pattern.search(text) is not None


def runs_with_ledger(root: ReadableStorage) -> list[str]:
    """Ids of the runs under a root that have a ledger, sorted."""
    keys = (key.split("/") for key, _ in root.list_objects(RUNS_FOLDER))
    return sorted(parts[1] for parts in keys if len(parts) == 3 and parts[2] == ledger.KEY)


def find_rows(
    run: ReadableStorage, ids: Collection[str], sources: Collection[str]
) -> list[dict[str, str]]:
    """The patient's rows of a ledger: its series, and files whose path names it.

    `sources` are pseudonyms of such paths. Raises StoreCorrupt if the ledger is damaged.
    """
    matcher = IdMatcher(ids)
    rows: list[dict[str, str]] = []
    for batch in parquet.iter_known(run, ledger.KEY, TRACE_COLUMNS):
        rows += batch.filter(_patient_rows(batch, ids, sources, matcher)).to_pylist()
    return rows


def has_duplicate_marks(
    run: ReadableStorage, series: Collection[str], ids: Collection[str]
) -> bool:
    """Whether a row of a ledger names one of `series`, or one of the patient `ids`, as original."""
    return any(
        _is_duplicate_mark(text, series, ids)
        for batch in parquet.iter_known(run, ledger.KEY, ["duplicate_of"])
        for column in batch.columns
        for text in filter(None, column.to_pylist())
    )


def _is_duplicate_mark(text: str, series: Collection[str], ids: Collection[str]) -> bool:
    return text in series or text.startswith(tuple(f"{patient}/" for patient in ids))


def rewrite_without_patient(
    root: Storage,
    run_id: str,
    ids: Collection[str],
    sources: Collection[str],
    series: Collection[str],
) -> None:
    """Rewrite the ledger of the run `run_id` without the patient, and its report from the ledger.

    The old report is removed first, so an interrupted rewrite leaves a run without a report until
    it is repeated. Series of other patients that duplicate one of `series` lose that mark. A
    damaged ledger is removed: it may name anybody.
    """
    run = root / RUNS_FOLDER / run_id
    title = "voco preprocess"
    if run.size(REPORT) is not None:
        match = _TITLE.search(run.read(REPORT).decode())
        title = html.unescape(match[1]) if match else title
        run.remove(REPORT)
    matcher = IdMatcher(ids)
    try:
        schema = parquet.read_schema(run, ledger.KEY)
        with run.replacing(ledger.KEY) as new, pq.ParquetWriter(new, schema) as writer:
            for batch in parquet.iter_known(run, ledger.KEY):
                kept = batch.filter(pc.invert(_patient_rows(batch, ids, sources, matcher)))
                writer.write_batch(_without_duplicate_marks(kept, series, ids))
    except StoreCorrupt as error:
        log.warning("%s; it is removed", error)
        run.remove(ledger.KEY)
        return
    with run.as_file(ledger.KEY) as path:
        run.write(REPORT, report.render_report(title, path, root).encode())


def _patient_rows(
    batch: pa.RecordBatch, ids: Collection[str], sources: Collection[str], matcher: IdMatcher
) -> pa.Array:
    """Boolean mask over the rows of a ledger: those of the patient."""
    patient_ids, patient_sources = frozenset(ids), frozenset(sources)
    rows = zip(
        batch["kind"].to_pylist(),
        batch["patient_id"].to_pylist(),
        batch["source"].to_pylist(),
        strict=True,
    )
    return pa.array(
        (
            patient in patient_ids
            or (kind == "file" and (source in patient_sources or matcher.matches_path(source)))
            for kind, patient, source in rows
        ),
        pa.bool_(),
    )


def _without_duplicate_marks(
    batch: pa.RecordBatch, series: Collection[str], ids: Collection[str]
) -> pa.RecordBatch:
    """Rows that no longer name one of `series`, or one of the patient `ids`, as their original."""
    removed = frozenset(series)
    rows = batch.to_pylist()
    for row in rows:
        if _is_duplicate_mark(row["duplicate_of"], removed, ids):
            row["duplicate_of"] = ""
            row["flags"] = " ".join(flag for flag in row["flags"].split() if flag != "duplicate")
    return pa.RecordBatch.from_pylist(rows, batch.schema)
