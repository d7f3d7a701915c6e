"""Look everywhere under a root for what a patient left. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing

from voco_data.deidentification import pseudonyms
from voco_data.erasure import run_files
from voco_data.erasure.journal import Journal
from voco_data.erasure.run_files import Names, Traces
from voco_data.maintenance.removal import listing, waiting
from voco_data.storage.base import Storage
from voco_data.storage.root import RUNS_FOLDER as RUNS
from voco_data.storage.root import store_names
from voco_data.store import catalogue
from voco_data.store.record import series_key


def find(home: Storage, patient: str) -> Journal:
    """All that names a patient, by the archive's id or by the pseudonym."""
    ids, pairs = _named_in_map(home, patient)
    journal = Journal(ids, pairs=pairs)
    hidden_files = [pseudonym for kind, pseudonym in pairs if kind == "source"]
    studies: set[str] = set()
    lines: list[tuple[str, str, str]] = []
    for name in store_names(home):
        mine = list(_lines_of(home / name, ids))
        if mine:
            journal.stores[name] = len(mine)
        for line in mine:
            lines.append((line["patient_id"], line["series_uid"], line["source"]))
            studies.add(line["study_uid"])
            journal.traces.digests.append(line["input_digest"])
    for run in run_files.runs_of(home):
        rows = run_files.rows_in(home / RUNS / run, ids, hidden_files)
        if rows:
            journal.runs[run] = len(rows)
        for row in rows:
            if row["kind"] == "series":
                lines.append((row["patient_id"], row["series_uid"], row["source"]))
                journal.traces.digests += filter(None, [row["input_digest"]])
                if row["reason"]:
                    journal.traces.remarks.append([row["reason"], row["detail"]])
    journal.traces.add(
        Traces(
            series=[series for _, series, _ in lines],
            sources=[source for _, _, source in lines] + hidden_files,
            keys=[series_key(*line) for line in lines],
        )
    )
    journal.known = bool(lines) or any(kind == "patient" for kind, _ in pairs)
    journal.pairs = _pairs_of(home, journal, studies)
    return journal


def _named_in_map(home: Storage, patient: str) -> tuple[list[str], list[list[str]]]:
    """All ids of the patient, and map entries that name it: its own, and files named after it."""
    ids = {patient}
    hide = pseudonyms.load(home)
    if hide is not None:
        with closing(hide):
            ids |= {
                original
                for kind, pseudonym, original in pseudonyms.read_map(home)
                if kind == "patient" and pseudonym == patient
            }
            ids |= {hide("patient", original) for original in tuple(ids)}
    names = Names(ids)
    pairs = [
        [kind, pseudonym]
        for kind, pseudonym, original in pseudonyms.read_map(home)
        if (kind == "patient" and pseudonym in ids)
        or (kind == "source" and names.in_path(original))
    ]
    return sorted(ids), pairs


def _lines_of(store: Storage, ids: Collection[str]) -> Iterator[dict[str, str]]:
    """What a store holds of a patient: catalogue lines, and records that wait to be taken up."""
    names = ["patient_id", "study_uid", "series_uid", "source", "input_digest"]
    for batch in catalogue.batches(store, names):
        yield from (line for line in batch.to_pylist() if line["patient_id"] in ids)
    for record in waiting(store, listing(store)):
        if record.patient_id in ids:
            yield {name: getattr(record, name) for name in names}


def _pairs_of(home: Storage, journal: Journal, studies: Collection[str]) -> list[list[str]]:
    """Entries of the private map that belong to the patient and to nobody else."""
    columns = {"series": "series_uid", "study": "study_uid", "source": "source"}
    theirs = {
        "series": {*journal.traces.series},
        "study": {*studies},
        "source": {*journal.traces.sources},
    }
    for line in others(home, journal.ids, [*columns.values()]):
        for kind, column in columns.items():
            theirs[kind].discard(line[column])
    pairs = {(kind, pseudonym) for kind, pseudonym in journal.pairs}
    pairs |= {
        (kind, pseudonym)
        for kind, pseudonym, _ in pseudonyms.read_map(home)
        if pseudonym in theirs.get(kind, ())
    }
    return [list(pair) for pair in sorted(pairs)]


def others(home: Storage, ids: Collection[str], columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Lines of all other patients in all stores."""
    for name in store_names(home):
        for batch in catalogue.batches(home / name, ["patient_id", *columns]):
            yield from (line for line in batch.to_pylist() if line["patient_id"] not in ids)
