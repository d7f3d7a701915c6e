"""Erase a patient from everything under a root.

Everything that will be removed is found first, and listed in a journal in the private folder. Each
step of the removal can be repeated, so the next erasure completes one that was killed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.deidentification import pseudonyms
from voco_data.erasure import run_files
from voco_data.erasure.journal import JOURNALS, Journal, read_journals, write_journal
from voco_data.erasure.search import find_patient, find_residue, lines_of_others
from voco_data.errors import InputError
from voco_data.ingest import Archives, SeenFiles
from voco_data.maintenance import (
    pins_of_store,
    read_pins,
    remove_objects,
    scan_store,
    stale_temporaries,
)
from voco_data.qc import preview
from voco_data.storage import (
    ARCHIVES,
    PRIVATE_FOLDER,
    SEEN_FILES,
    CombinedLease,
    Storage,
    atomic,
    existing_root,
    root_in_use,
    store_names,
    sweep_idle_root,
    sweep_store,
)
from voco_data.store import (
    GROUP_METADATA,
    WRITE_ONCE,
    StoreWriter,
    catalogue,
    open_for_writing,
    read_spec,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ForgetSummary:
    """The data of a patient under a root, and whether they were removed."""

    root: str
    removed: bool
    series: int
    """Series of the patient, over all stores."""
    stores: tuple[dict[str, object], ...]
    """Store, series and bytes of their volumes."""
    ledgers: tuple[dict[str, object], ...]
    """Run and rows of its ledger."""
    previews: int
    map_entries: int
    """Entries of the private map that name the patient."""
    learned_by: tuple[str, ...]
    """Runs that trained on a store with this patient: their weights are not changed."""
    left: tuple[str, ...]
    """Other files under the root that name the patient, such as those of training runs."""

    def to_json(self) -> dict[str, object]:
        """As `voco store forget --json` prints it."""
        return asdict(self)


def forget_patient(
    root: str | Path | Storage, patient: str, *, yes: bool = False, wait: float = 0.0
) -> ForgetSummary:
    """List the data of `patient` under `root`; with `yes`, remove them, under all stores' locks.

    `patient` is the archive's own id or the pseudonym, letter by letter. Raises InputError for a
    root that is not there, a patient that nothing names, and a store that cannot be written by
    this version; StoreBusy if a run writes under the root for longer than `wait` seconds.
    """
    root_storage = existing_root(root)
    if not patient.strip():
        raise InputError("patient: expected an id or a pseudonym, got an empty text")
    with ExitStack() as stack:
        writers = _lock_all_stores(root_storage, stack, wait) if yes else []
        root_storage = root_storage.with_lease(
            CombinedLease([writer.lease for writer in writers]), WRITE_ONCE
        )
        journal = _journal_of(root_storage, patient)
        if not journal.known:
            raise InputError(
                f"{root_storage}: no store, ledger or map names the patient; "
                "give the archive's own id or the pseudonym, letter by letter"
            )
        previews = _previews_of_patient_alone(root_storage, journal)
        if yes:
            write_journal(root_storage, journal)
            _remove_everything(root_storage, journal, writers, previews)
        else:
            log.info("nothing was removed; --yes removes it")
        return _summary(root_storage, journal, len(previews), removed=yes)


def is_named(root: Storage, patient: str) -> bool:
    """Whether a store, ledger, map or the journal of an interrupted erasure names the patient."""
    return _journal_of(root, patient).known


def _journal_of(root: Storage, patient: str) -> Journal:
    """What belongs to the patient, with what an interrupted erasure had found."""
    journal = find_patient(root, patient)
    for _, old in read_journals(root):
        if set(old.ids) & set(journal.ids):
            journal.add(old)
    return journal


def _lock_all_stores(root: Storage, stack: ExitStack, wait: float) -> list[StoreWriter]:
    """Open every store under its lock, with what an interrupted run had committed.

    Temporary files of killed runs are removed while no run writes to the root.
    """
    sweep_idle_root(root, wait_seconds=wait)
    stack.enter_context(root_in_use(root))
    writers = []
    for name in store_names(root):
        try:
            spec = read_spec(root / name)
        except InputError as error:
            raise InputError(
                f"{error}; nothing was forgotten: such a store may hold the patient, "
                "remove it first (voco store gc --store)"
            ) from error
        writers.append(stack.enter_context(open_for_writing(root, spec, wait_seconds=wait)))
    return writers


def _previews_of_patient_alone(root: Storage, journal: Journal) -> list[str]:
    """Keys of the previews of the patient's scans, without those of another patient's scans."""
    digests = {*journal.traces.digests}
    for line in lines_of_others(root, journal.ids, ["input_digest"]):
        digests.discard(line["input_digest"])
    keys = sorted(map(preview.key_of, digests))
    return [key for key in keys if root.size(key) is not None]


def _remove_everything(
    root: Storage, journal: Journal, writers: Sequence[StoreWriter], previews: Sequence[str]
) -> None:
    """Remove everything. Each step may have been done before, by an interrupted erasure.

    The entries of the private map are removed last: a repeated erasure finds the patient by them.
    """
    for writer in writers:
        _remove_from_store(writer, journal)
    if root.size(SEEN_FILES) is not None:
        with closing(SeenFiles(root)) as seen_files:
            remarks = [(reason, detail) for reason, detail in journal.traces.remarks]
            seen_files.forget(journal.traces.digests, remarks)
            seen_files.save()
    if root.size(ARCHIVES) is not None:
        with closing(Archives(root)) as archives:
            archives.forget(journal.traces.keys)
            archives.save()
    remove_objects(root, previews)
    for run in journal.runs:
        run_files.rewrite_without_patient(
            root,
            run,
            ids=journal.ids,
            sources=journal.traces.sources,
            series=journal.traces.series,
        )
    stale = list(stale_temporaries(root, outside=(PRIVATE_FOLDER, *store_names(root))))
    remove_objects(root, (key for key, _ in stale))
    _remove_from_private(root, journal)


def _remove_from_private(root: Storage, journal: Journal) -> None:
    """Remove the patient's entries of the map, its journals, and temporary files beside both."""
    private = pseudonyms.private_folder(root)
    journals = private / JOURNALS
    # What a damaged map names cannot be told, so that it goes as a whole.
    (private / pseudonyms.DAMAGED_MAP_FILE).unlink(missing_ok=True)
    if (private / pseudonyms.MAP_FILE).exists():
        removed = {(kind, pseudonym) for kind, pseudonym in journal.pairs}
        with pseudonyms.lock_map(root):
            # No run sweeps the private folder of a bucket.
            atomic.remove_temporaries_of(private / pseudonyms.MAP_FILE)
            pairs = pseudonyms.read_map(root)
            pseudonyms.write_map(root, (pair for pair in pairs if pair[:2] not in removed))
    atomic.sweep_folder(journals)
    root.sync()  # the journal goes last, also on the disk
    for file, old in read_journals(root):
        if set(old.ids) & set(journal.ids):
            file.unlink()
    for folder in (journals, private):
        with suppress(OSError):  # not empty: it holds other journals, or the key
            folder.rmdir()


def _remove_from_store(writer: StoreWriter, journal: Journal) -> None:
    """Remove the patient's rows, and all objects that no catalogue lists: any may be of theirs."""
    rows = [
        row
        for batch in catalogue.iter_batches(writer.storage, ["row", "patient_id"])
        for row, patient in zip(
            batch["row"].to_pylist(), batch["patient_id"].to_pylist(), strict=True
        )
        if patient in journal.ids
    ]
    writer.remove_rows(rows, journal.traces.keys)
    writer.compact()
    scan = scan_store(writer.storage)
    remove_objects(writer.storage, (key for key, _ in scan.leftovers))
    sweep_store(writer.storage)


def _summary(root: Storage, journal: Journal, previews: int, *, removed: bool) -> ForgetSummary:
    pinned = read_pins(root)
    stores: list[dict[str, object]] = []
    for name, series in journal.stores.items():
        if (root / name).size(GROUP_METADATA) is None:
            continue  # a gc removed the store after it was searched
        z, y, x = read_spec(root / name).grid
        stores.append({"store": name, "series": series, "bytes": series * z * y * x})
    learned = {pin.run for name in journal.stores for pin in pins_of_store(pinned, name)}
    return ForgetSummary(
        root=str(root),
        removed=removed,
        series=sum(journal.stores[str(store["store"])] for store in stores),
        stores=tuple(stores),
        ledgers=tuple({"run": run, "rows": rows} for run, rows in journal.runs.items()),
        previews=previews,
        map_entries=len(journal.pairs),
        learned_by=tuple(sorted(learned)),
        left=tuple(find_residue(root, journal.ids)),
    )
