"""Find the data of a patient under a root. Nothing is written.

`find_patient` finds what `voco store forget` removes. `find_residue` finds the other files that
name the patient, which are those of training runs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing

import pyarrow as pa

from voco_data.deidentification import pseudonyms
from voco_data.erasure.journal import Journal, PatientTraces
from voco_data.erasure.run_files import (
    IdMatcher,
    find_rows,
    has_duplicate_marks,
    runs_with_ledger,
)
from voco_data.errors import StoreCorrupt
from voco_data.maintenance import scan_store, uncatalogued_records
from voco_data.qc import ledger
from voco_data.storage import (
    ARCHIVES,
    PREVIEWS_FOLDER,
    PRIVATE_FOLDER,
    REPORT,
    RUNS_FOLDER,
    SEEN_FILES,
    ReadableStorage,
    parquet,
    store_names,
)
from voco_data.store import SeriesIdentity, catalogue, series_key

log = logging.getLogger(__name__)

TEXT_SUFFIXES = (".csv", ".html", ".json", ".log", ".txt")
"""Suffixes of files that are searched as text."""


def find_patient(root: ReadableStorage, patient: str) -> Journal:
    """Find everything that belongs to a patient, by the archive's id or by the pseudonym."""
    ids, pairs = _ids_and_map_entries(root, patient)
    journal = Journal(ids, pairs=pairs)
    path_pseudonyms = [pseudonym for kind, pseudonym in pairs if kind == "source"]
    identities: list[SeriesIdentity] = []
    sources: list[str] = []
    for name in store_names(root):
        lines = list(_lines_of_patient(root / name, ids))
        if lines:
            journal.stores[name] = len(lines)
        for line in lines:
            names = (line["patient_id"], line["study_uid"], line["series_uid"])
            identities.append(SeriesIdentity(*names))
            sources.append(line["source"])
            journal.traces.digests.append(line["input_digest"])
    for run in runs_with_ledger(root):
        try:
            rows = find_rows(root / RUNS_FOLDER / run, ids, path_pseudonyms)
        except StoreCorrupt as error:
            log.warning("%s; it may name anybody, so it would be removed", error)
            journal.runs[run] = 0
            continue
        if rows:
            journal.runs[run] = len(rows)
        for row in rows:
            if row["kind"] == "series":
                study_uid = row.get("study_uid", "")
                identities.append(SeriesIdentity(row["patient_id"], study_uid, row["series_uid"]))
                sources.append(row["source"])
                journal.traces.digests += filter(None, [row["input_digest"]])
                if row["reason"]:
                    journal.traces.remarks.append([row["reason"], row["detail"]])
    journal.traces.add(
        PatientTraces(
            series=[identity.series_uid for identity in identities],
            sources=sources + path_pseudonyms,
            keys=[series_key(identity) for identity in identities],
        )
    )
    series = frozenset(journal.traces.series)
    for run in runs_with_ledger(root):
        if run not in journal.runs and has_duplicate_marks(root / RUNS_FOLDER / run, series, ids):
            journal.runs[run] = 0  # no row of the patient, but one that names it
    journal.known = bool(identities) or any(kind == "patient" for kind, _ in pairs)
    studies = {identity.study_uid for identity in identities}
    journal.pairs = _map_entries_of_patient_alone(root, journal, studies)
    return journal


def lines_of_others(
    root: ReadableStorage, ids: Collection[str], columns: Sequence[str]
) -> Iterator[dict[str, str]]:
    """Iterate over the lines of all other patients in all stores: `patient_id` and `columns`."""
    for name in store_names(root):
        for batch in catalogue.iter_batches(root / name, ["patient_id", *columns]):
            yield from (line for line in batch.to_pylist() if line["patient_id"] not in ids)


def find_residue(root: ReadableStorage, ids: Collection[str]) -> Iterator[str]:
    """Find texts and tables that name one of the ids, outside stores and preprocess runs.

    Yields keys. A file that cannot be read may name an id, too: its key is followed by a note.
    """
    skipped = (*store_names(root), PREVIEWS_FOLDER, PRIVATE_FOLDER, SEEN_FILES, ARCHIVES)
    run_files = {
        f"{RUNS_FOLDER}/{run}/{name}"
        for run in runs_with_ledger(root)
        for name in (ledger.KEY, REPORT)
    }
    matcher = IdMatcher(ids)
    keys = (key for key, _ in root.list_objects() if key.partition("/")[0] not in skipped)
    for key in sorted(key for key in keys if key not in run_files):
        try:
            if _names_patient(root, key, matcher):
                yield key
        except FileNotFoundError:  # a training run has removed it since it was listed
            pass
        except OSError as error:
            yield f"{key} (cannot be read: {error.strerror or error})"
        except StoreCorrupt:
            yield f"{key} (cannot be read: the table is damaged)"


def _ids_and_map_entries(root: ReadableStorage, patient: str) -> tuple[list[str], list[list[str]]]:
    """All ids of the patient, and its entries of the private map: ids, and files named by one.

    The map may hold several pseudonyms of a patient, of which one key has made each.
    """
    ids = {patient}
    pseudonymiser = pseudonyms.load(root)
    if pseudonymiser is not None:
        with closing(pseudonymiser):
            ids |= {
                original
                for kind, pseudonym, original in pseudonyms.read_map(root)
                if kind == "patient" and pseudonym == patient
            }
            ids |= {pseudonymiser("patient", original) for original in tuple(ids)}
        originals = {name.strip() for name in ids}  # as pseudonyms are made
        ids |= {
            pseudonym
            for kind, pseudonym, original in pseudonyms.read_map(root)
            if kind == "patient" and original.strip() in originals
        }
    matcher = IdMatcher(ids)
    pairs = [
        [kind, pseudonym]
        for kind, pseudonym, original in pseudonyms.read_map(root)
        if (kind == "patient" and pseudonym in ids)
        or (kind in ("source", "archive") and matcher.matches_path(original))
    ]
    return sorted(ids), pairs


def _lines_of_patient(store: ReadableStorage, ids: Collection[str]) -> Iterator[dict[str, str]]:
    """A patient's series in a store: catalogue lines, and records that are not catalogued yet."""
    names = ["patient_id", "study_uid", "series_uid", "source", "input_digest"]
    for batch in catalogue.iter_batches(store, names):
        yield from (line for line in batch.to_pylist() if line["patient_id"] in ids)
    for record in uncatalogued_records(store, scan_store(store)):
        if record.patient_id in ids:
            yield {name: getattr(record, name) for name in names}


def _map_entries_of_patient_alone(
    root: ReadableStorage, journal: Journal, studies: Collection[str]
) -> list[list[str]]:
    """Entries of the private map that belong to the patient and to no other."""
    columns = {"series": "series_uid", "study": "study_uid", "source": "source"}
    pseudonyms_of_patient = {
        "series": {*journal.traces.series},
        "study": {*studies},
        "source": {*journal.traces.sources},
    }
    for line in lines_of_others(root, journal.ids, [*columns.values()]):
        for kind, column in columns.items():
            pseudonyms_of_patient[kind].discard(line[column])
    pairs = {(kind, pseudonym) for kind, pseudonym in journal.pairs}
    pairs |= {
        (kind, pseudonym)
        for kind, pseudonym, _ in pseudonyms.read_map(root)
        if pseudonym in pseudonyms_of_patient.get(kind, ())
    }
    return [list(pair) for pair in sorted(pairs)]


def _names_patient(root: ReadableStorage, key: str, matcher: IdMatcher) -> bool:
    if key.endswith(TEXT_SUFFIXES):
        return matcher.matches_text(root.read(key).decode("latin-1"))
    return key.endswith(".parquet") and _table_names_patient(root, key, matcher)


def _table_names_patient(root: ReadableStorage, key: str, matcher: IdMatcher) -> bool:
    try:
        texts = [
            field.name
            for field in parquet.read_schema(root, key)
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        return any(
            matcher.matches_text("\n".join(filter(None, column.to_pylist())))
            for batch in parquet.iter_known(root, key, texts)
            for column in batch.columns
        )
    except StoreCorrupt:
        data = root.read(key)
        if data.startswith(b"PAR1"):
            raise
        return matcher.matches_text(data.decode("latin-1"))  # no table, in spite of its suffix
