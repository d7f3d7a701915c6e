"""Erase a patient from everything under a root.

What is to go is found first, and written to a journal in the private folder. From then on every
step can be done again: a forget that was killed is finished by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.deidentification import pseudonyms
from voco_data.erasure import run_files
from voco_data.erasure.journal import JOURNALS, Journal, journals, write_journal
from voco_data.erasure.residue import find_residue
from voco_data.erasure.search import find, others
from voco_data.errors import InputError
from voco_data.ingest.seen_files import KEY as FRESHNESS
from voco_data.ingest.seen_files import SeenFiles
from voco_data.maintenance.pins import pins_of, users
from voco_data.maintenance.removal import listing, remove, stale
from voco_data.qc import preview
from voco_data.storage.atomic import sweep_store
from voco_data.storage.base import Leases, Storage
from voco_data.storage.root import (
    PRIVATE_FOLDER,
    existing_root,
    root_in_use,
    store_names,
    sweep_idle_root,
)
from voco_data.store import catalogue
from voco_data.store.keys import WRITE_ONCE
from voco_data.store.metadata import read_spec
from voco_data.store.writer import StoreWriter, writing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ForgetSummary:
    """What a patient left under a root, and whether it was removed."""

    root: str
    removed: bool
    series: int
    """Over all stores."""
    stores: tuple[dict[str, object], ...]
    """Store, series and bytes of their volumes."""
    ledgers: tuple[dict[str, object], ...]
    """Run and rows of its ledger."""
    previews: int
    map_entries: int
    """Of the private map."""
    learned_by: tuple[str, ...]
    """Runs that trained on a store with this patient: their weights may remember."""
    left: tuple[str, ...]
    """Other files under the root that name the patient, such as those of training runs."""

    def to_json(self) -> dict[str, object]:
        """As `voco store forget --json` prints it."""
        return asdict(self)


def forget(
    root: str | Path | Storage, patient: str, *, yes: bool = False, wait: float = 0.0
) -> ForgetSummary:
    """Say what `patient` left under `root`; with `yes`, remove it, under the locks of all stores.

    `patient` is the archive's own id or the pseudonym, letter by letter. Raises InputError for a
    root that is not there, a patient whom nothing names, and a store that cannot be written by
    this version; StoreBusy if a run writes under the root for longer than `wait` seconds.
    """
    home = existing_root(root)
    if not patient.strip():
        raise InputError("patient: expected an id or a pseudonym, got an empty text")
    with ExitStack() as stack:
        writers = _alone(home, stack, wait) if yes else []
        home = home.with_lease(Leases([writer.lease for writer in writers]), WRITE_ONCE)
        journal = find(home, patient)
        for _, old in journals(home):
            if set(old.ids) & set(journal.ids):
                journal.add(old)
        if not journal.known:
            raise InputError(
                f"{home}: no store, ledger or map names the patient; "
                "give the archive's own id or the pseudonym, letter by letter"
            )
        alone = _previews_of(home, journal)
        if yes:
            write_journal(home, journal)
            _apply(home, journal, writers, alone)
        else:
            log.info("nothing was removed; --yes removes it")
        return _summary(home, journal, len(alone), removed=yes)


def _alone(home: Storage, stack: ExitStack, wait: float) -> list[StoreWriter]:
    """Every store under its lock. What an interrupted run had committed is taken up.

    Torn files of killed runs go now, when nobody writes what all stores share.
    """
    sweep_idle_root(home, wait_seconds=wait)
    stack.enter_context(root_in_use(home))
    found = []
    for name in store_names(home):
        try:
            spec = read_spec(home / name)
        except InputError as error:
            raise InputError(
                f"{error}; nothing was forgotten: such a store may hold the patient, "
                "remove it first (voco store gc --store)"
            ) from error
        found.append(stack.enter_context(writing(home, spec, wait_seconds=wait)))
    return found


def _previews_of(home: Storage, journal: Journal) -> list[str]:
    """Previews of the patient's scans that are there; other patients' equal scans keep theirs."""
    digests = {*journal.traces.digests}
    for line in others(home, journal.ids, ["input_digest"]):
        digests.discard(line["input_digest"])
    keys = sorted(map(preview.key_of, digests))
    return [key for key in keys if home.size(key) is not None]


def _apply(
    home: Storage, journal: Journal, writers: Sequence[StoreWriter], previews: Sequence[str]
) -> None:
    """Every step; each may have been done before. The map goes last: it finds the patient again."""
    for writer in writers:
        _forget_in_store(writer, journal)
    if home.size(FRESHNESS) is not None:
        with closing(SeenFiles(home)) as freshness:
            remarks = [(reason, detail) for reason, detail in journal.traces.remarks]
            freshness.forget(journal.traces.digests, remarks)
            freshness.save()
    remove(home, previews)
    for run in journal.runs:
        run_files.forget_in(home, run, journal.ids, journal.traces.sources, journal.traces.series)
    remove(home, [key for key, _ in stale(home, (PRIVATE_FOLDER, *store_names(home)))])
    _forget_in_private(home, journal)


def _forget_in_private(home: Storage, journal: Journal) -> None:
    """Out of the map, then away with the journals, and with what killed runs left beside both."""
    private = pseudonyms.folder_of(home)
    pending = private / JOURNALS
    if (private / pseudonyms.MAP_FILE).exists():
        gone = {(kind, pseudonym) for kind, pseudonym in journal.pairs}
        with pseudonyms.changing_map(home):
            for torn in private.glob(f".{pseudonyms.MAP_FILE}.*.tmp"):  # those of a bucket
                torn.unlink(missing_ok=True)
            pairs = pseudonyms.read_map(home)
            pseudonyms.write_map(home, (pair for pair in pairs if pair[:2] not in gone))
    for torn in pending.glob(".*.tmp"):
        torn.unlink(missing_ok=True)
    for file, old in journals(home):
        if set(old.ids) & set(journal.ids):
            file.unlink()
    for folder in (pending, private):
        with suppress(OSError):  # other journals, or the key
            folder.rmdir()


def _forget_in_store(writer: StoreWriter, journal: Journal) -> None:
    """Rows, records and chunks; and what no catalogue lists: nobody can say whose that is."""
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
    inside = listing(writer.storage)
    remove(writer.storage, (key for key, _ in inside.leftovers))
    sweep_store(writer.storage)


def _summary(home: Storage, journal: Journal, previews: int, *, removed: bool) -> ForgetSummary:
    pinned = pins_of(home)
    stores: list[dict[str, object]] = []
    for name, series in journal.stores.items():
        if (home / name).size("zarr.json") is None:
            continue  # gc removed it since it was looked at, or since an interrupted forget
        z, y, x = read_spec(home / name).grid
        stores.append({"store": name, "series": series, "bytes": series * z * y * x})
    learned = {pin.run for name in journal.stores for pin in users(pinned, name)}
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
