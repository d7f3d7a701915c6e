"""Erase a patient from everything under a root.

What will be removed is found first and written to a journal in the private folder. From then on
every step can be done again, so a forget that was killed is finished by the next one.
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
from voco_data.ingest import SeenFiles
from voco_data.maintenance import (
    pins_of_store,
    read_pins,
    remove_objects,
    scan_store,
    stale_temporaries,
)
from voco_data.qc import preview
from voco_data.storage import (
    PRIVATE_FOLDER,
    SEEN_FILES,
    Leases,
    Storage,
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
    """What a patient left under a root, and whether it was removed."""

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
    """Runs that trained on a store with this patient: their weights may remember."""
    left: tuple[str, ...]
    """Other files under the root that name the patient, such as those of training runs."""

    def to_json(self) -> dict[str, object]:
        """As `voco store forget --json` prints it."""
        return asdict(self)


def forget_patient(
    root: str | Path | Storage, patient: str, *, yes: bool = False, wait: float = 0.0
) -> ForgetSummary:
    """List what `patient` left under `root`; with `yes`, remove it, under the locks of all stores.

    `patient` is the archive's own id or the pseudonym, letter by letter. Raises InputError for a
    root that is not there, a patient that nothing names, and a store that cannot be written by
    this version; StoreBusy if a run writes under the root for longer than `wait` seconds.
    """
    home = existing_root(root)
    if not patient.strip():
        raise InputError("patient: expected an id or a pseudonym, got an empty text")
    with ExitStack() as stack:
        writers = _lock_all_stores(home, stack, wait) if yes else []
        home = home.with_lease(Leases([writer.lease for writer in writers]), WRITE_ONCE)
        journal = find_patient(home, patient)
        for _, old in read_journals(home):
            if set(old.ids) & set(journal.ids):
                journal.add(old)
        if not journal.known:
            raise InputError(
                f"{home}: no store, ledger or map names the patient; "
                "give the archive's own id or the pseudonym, letter by letter"
            )
        previews = _previews_of_patient_alone(home, journal)
        if yes:
            write_journal(home, journal)
            _remove_everything(home, journal, writers, previews)
        else:
            log.info("nothing was removed; --yes removes it")
        return _summary(home, journal, len(previews), removed=yes)


def _lock_all_stores(home: Storage, stack: ExitStack, wait: float) -> list[StoreWriter]:
    """Every store under its lock, with what an interrupted run had committed.

    Temporary files of killed runs are removed while no run writes what the stores share.
    """
    sweep_idle_root(home, wait_seconds=wait)
    stack.enter_context(root_in_use(home))
    writers = []
    for name in store_names(home):
        try:
            spec = read_spec(home / name)
        except InputError as error:
            raise InputError(
                f"{error}; nothing was forgotten: such a store may hold the patient, "
                "remove it first (voco store gc --store)"
            ) from error
        writers.append(stack.enter_context(open_for_writing(home, spec, wait_seconds=wait)))
    return writers


def _previews_of_patient_alone(home: Storage, journal: Journal) -> list[str]:
    """Keys of the previews of the patient's scans, except those that another patient's share."""
    digests = {*journal.traces.digests}
    for line in lines_of_others(home, journal.ids, ["input_digest"]):
        digests.discard(line["input_digest"])
    keys = sorted(map(preview.key_of, digests))
    return [key for key in keys if home.size(key) is not None]


def _remove_everything(
    home: Storage, journal: Journal, writers: Sequence[StoreWriter], previews: Sequence[str]
) -> None:
    """Do every step; each may have been done before.

    The private map comes last: an interrupted forget finds the patient in it again.
    """
    for writer in writers:
        _remove_from_store(writer, journal)
    if home.size(SEEN_FILES) is not None:
        with closing(SeenFiles(home)) as seen_files:
            remarks = [(reason, detail) for reason, detail in journal.traces.remarks]
            seen_files.forget(journal.traces.digests, remarks)
            seen_files.save()
    remove_objects(home, previews)
    for run in journal.runs:
        run_files.rewrite_without_patient(
            home,
            run,
            ids=journal.ids,
            sources=journal.traces.sources,
            series=journal.traces.series,
        )
    stale = list(stale_temporaries(home, outside=(PRIVATE_FOLDER, *store_names(home))))
    remove_objects(home, (key for key, _ in stale))
    _remove_from_private(home, journal)


def _remove_from_private(home: Storage, journal: Journal) -> None:
    """Remove the patient's entries of the map, its journals, and temporary files beside both."""
    private = pseudonyms.private_folder(home)
    pending = private / JOURNALS
    if (private / pseudonyms.MAP_FILE).exists():
        removed = {(kind, pseudonym) for kind, pseudonym in journal.pairs}
        with pseudonyms.lock_map(home):
            # The private folder of a bucket is swept by no run.
            for temporary in private.glob(f".{pseudonyms.MAP_FILE}.*.tmp"):
                temporary.unlink(missing_ok=True)
            pairs = pseudonyms.read_map(home)
            pseudonyms.write_map(home, (pair for pair in pairs if pair[:2] not in removed))
    for temporary in pending.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)
    for file, old in read_journals(home):
        if set(old.ids) & set(journal.ids):
            file.unlink()
    for folder in (pending, private):
        with suppress(OSError):  # not empty: it holds other journals, or the key
            folder.rmdir()


def _remove_from_store(writer: StoreWriter, journal: Journal) -> None:
    """Remove the patient's rows, and all objects that no catalogue lists, as any may be theirs."""
    rows = [
        row
        for batch in catalogue.batches(writer.storage, ["row", "patient_id"])
        for row, patient in zip(
            batch["row"].to_pylist(), batch["patient_id"].to_pylist(), strict=True
        )
        if patient in journal.ids
    ]
    writer.drop(rows, journal.traces.keys)
    writer.compact()
    scan = scan_store(writer.storage)
    remove_objects(writer.storage, (key for key, _ in scan.leftovers))
    sweep_store(writer.storage)


def _summary(home: Storage, journal: Journal, previews: int, *, removed: bool) -> ForgetSummary:
    pinned = read_pins(home)
    stores: list[dict[str, object]] = []
    for name, series in journal.stores.items():
        if (home / name).size(GROUP_METADATA) is None:
            continue  # a gc removed the store after it was searched
        z, y, x = read_spec(home / name).grid
        stores.append({"store": name, "series": series, "bytes": series * z * y * x})
    learned = {pin.run for name in journal.stores for pin in pins_of_store(pinned, name)}
    return ForgetSummary(
        root=str(home),
        removed=removed,
        series=sum(journal.stores[str(store["store"])] for store in stores),
        stores=tuple(stores),
        ledgers=tuple({"run": run, "rows": rows} for run, rows in journal.runs.items()),
        previews=previews,
        map_entries=len(journal.pairs),
        learned_by=tuple(sorted(learned)),
        left=tuple(find_residue(home, journal.ids)),
    )
