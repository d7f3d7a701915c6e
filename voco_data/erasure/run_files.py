"""One patient in the ledgers and reports of preprocess runs: what is there, and without it."""

from __future__ import annotations

import html
import re
from collections.abc import Collection
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from voco_data.qc import ledger, report
from voco_data.storage.base import Storage
from voco_data.storage.root import REPORT
from voco_data.storage.root import RUNS_FOLDER as RUNS

FACTS = ("kind", "series_uid", "patient_id", "source", "reason", "detail", "input_digest")
"""Columns of a ledger that lead from a patient to everything else."""
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


@dataclass(slots=True)
class Traces:
    """What leads from a patient to series, files and what was learnt of them. Sorted lists."""

    series: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """Input digests."""
    keys: list[str] = field(default_factory=list)
    """Series keys, see voco_data.store.row_ids."""
    remarks: list[list[str]] = field(default_factory=list)
    """(reason, detail) of series that were refused."""

    def add(self, other: Traces) -> None:
        """Take up what another place knows."""
        self.series = sorted({*self.series, *other.series})
        self.sources = sorted({*self.sources, *other.sources})
        self.digests = sorted({*self.digests, *other.digests})
        self.keys = sorted({*self.keys, *other.keys})
        remarks = {(reason, detail) for reason, detail in [*self.remarks, *other.remarks]}
        self.remarks = [list(remark) for remark in sorted(remarks)]


class Names:
    """Finds ids in what is not a table of ids: paths and texts. They are data, never patterns."""

    def __init__(self, ids: Collection[str]) -> None:
        self._ids = tuple(ids)
        words = "|".join(re.escape(name) for name in sorted(ids))
        self._pattern = re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")

    def in_path(self, path: str) -> bool:
        """Whether a folder or a file, up to a dot in its name, is called so."""
        parts = path.split("/")
        return any(
            part == name or part.startswith(f"{name}.") for part in parts for name in self._ids
        )

    def in_text(self, text: str) -> bool:
        """Whether one of the ids is a word of the text."""
        return self._pattern.search(text) is not None


def runs_of(root: Storage) -> list[str]:
    """Ids of the runs under a root that have a ledger."""
    keys = (key.split("/") for key, _ in root.sizes(RUNS))
    return sorted(parts[1] for parts in keys if len(parts) == 3 and parts[2] == ledger.KEY)


def rows_in(run: Storage, ids: Collection[str], sources: Collection[str]) -> list[dict[str, str]]:
    """The patient's rows of a ledger: its series, and files whose path names it."""
    names = Names(ids)
    found: list[dict[str, str]] = []
    with run.fetched(ledger.KEY) as path, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(FACTS)):
            found += batch.filter(_theirs(batch, ids, sources, names)).to_pylist()
    return found


def forget_in(
    root: Storage,
    name: str,
    ids: Collection[str],
    sources: Collection[str],
    series: Collection[str],
) -> None:
    """Rewrite the ledger of a run without the patient, and its report from it.

    The old report goes first: a run that was killed here has none, until this is done again.
    Other patients' duplicates of the patient's series are no duplicates any more.
    """
    run = root / RUNS / name
    title = "voco preprocess"
    if run.size(REPORT) is not None:
        found = _TITLE.search(run.read(REPORT).decode())
        title = html.unescape(found[1]) if found else title
        run.remove(REPORT)
    names = Names(ids)
    with (
        run.fetched(ledger.KEY) as old,
        pq.ParquetFile(old) as file,
        run.replacing(ledger.KEY) as new,
        pq.ParquetWriter(new, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches():
            kept = batch.filter(pc.invert(_theirs(batch, ids, sources, names)))
            writer.write_batch(_without_twins(kept, series))
    with run.fetched(ledger.KEY) as path:
        run.write(REPORT, report.render(title, path, root).encode())


def _theirs(
    batch: pa.RecordBatch, ids: Collection[str], sources: Collection[str], names: Names
) -> pa.Array:
    """A mask over the rows of a ledger."""
    wanted, hidden = frozenset(ids), frozenset(sources)
    rows = zip(*(batch[name].to_pylist() for name in ("kind", "patient_id", "source")), strict=True)
    return pa.array(
        (
            patient in wanted or (kind == "file" and (source in hidden or names.in_path(source)))
            for kind, patient, source in rows
        ),
        pa.bool_(),
    )


def _without_twins(batch: pa.RecordBatch, series: Collection[str]) -> pa.RecordBatch:
    """`duplicate_of` a forgotten series, and the flag that says so, are taken away."""
    gone = frozenset(series)
    rows = batch.to_pylist()
    for row in rows:
        if row["duplicate_of"] in gone:
            row["duplicate_of"] = ""
            row["flags"] = " ".join(flag for flag in row["flags"].split() if flag != "duplicate")
    return pa.RecordBatch.from_pylist(rows, batch.schema)
