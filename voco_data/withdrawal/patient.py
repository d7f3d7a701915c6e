"""Forget a patient everywhere: under a root, in folders of runs, and in split files.

Everything is found first, and written to a journal: what names the patient, and which runs have
learnt from it. Then runs are marked, their files are rewritten, and the roots are erased, the given
one last: it tells the names of the patient. The receipt is written at the end. Each step may be
repeated, so the same call completes one that was killed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voco_data.erasure import (
    ForgetSummary,
    PatientTraces,
    find_patient,
    forget_patient,
    is_named,
    lines_of_others,
)
from voco_data.errors import InputError
from voco_data.selection import root_digest
from voco_data.storage import LocalStorage, Storage, atomic, existing_root, locks, store_names
from voco_data.store import catalogue, read_spec
from voco_data.withdrawal.journal import (
    Journal,
    default_receipt,
    read_journals,
    remove_empty_folders,
)
from voco_data.withdrawal.learnt import Evidence, find_contents, find_learnt, groups_of_patient
from voco_data.withdrawal.receipt import make_receipt
from voco_data.withdrawal.records import Withdrawals
from voco_data.withdrawal.removal import remove
from voco_data.withdrawal.search import (
    Folders,
    find_in_files,
    find_residue,
    find_series,
    list_folders,
)
from voco_data.withdrawal.tables import listed_files
from voco_data.withdrawal.taint import mark_tainted

log = logging.getLogger(__name__)

RUN_LOCKS = (".lock", ".evaluations.json.lock")
"""Locks of a training run: of who trains it, and of who evaluates it."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where the patient is looked for."""

    root: Storage
    folders: Folders
    splits: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the folders, and split files."""
        return tuple(sorted({*self.folders.files, *self.splits}))

    @property
    def other_roots(self) -> list[Storage]:
        """Roots inside the folders of runs, without the given one."""
        own = self.root.local_folder()
        own = None if own is None else own.resolve()
        return [LocalStorage(each) for each in self.folders.roots if each != own]


def forget_everywhere(
    root: str | Path | Storage,
    patient: str,
    *,
    runs: Sequence[Path] = (),
    splits: Sequence[Path] = (),
    receipt: Path | None = None,
    yes: bool = False,
    wait: float = 0.0,
    champions: Collection[Path] | None = None,
) -> dict[str, Any]:
    """List what names `patient`; with `yes`, remove it and write a receipt. Returns the receipt.

    Parameters
    ----------
    patient : the archive's own id, or a pseudonym of `root`, letter by letter.
    runs : folders with training runs, predictions and other results, at any depth.
    splits : split files outside of `runs`.
    receipt : the file to write; `receipt-<digest>.json` in the current folder if None.
    wait : seconds to wait for a process that fills a store, or trains or evaluates a run.
    champions : folders of the runs that are champions; None if nobody keeps a registry.

    Raises
    ------
    InputError : if a folder or file is not there, and if nothing names the patient.
    StoreBusy : if another process writes for longer than `wait` seconds.
    """
    if not patient.strip():
        raise InputError("patient: expected an id or a pseudonym, got an empty text")
    for split in splits:
        if not split.is_file():
            raise InputError(f"{split}: expected a split file of voco split, found none")
    resolved = tuple(split.resolve() for split in splits)
    scope = _Scope(existing_root(root), list_folders(runs), resolved)
    if yes:
        remove_empty_folders(scope.root)  # of a withdrawal that was killed at its very end
    journal = _find(scope, patient, champions)
    if not yes:
        log.info("nothing was removed; --yes removes it")
        return make_receipt(journal, _left(scope, journal, removed=False), removed=False)
    journal.receipt = str((receipt or Path(journal.receipt or default_receipt(journal))).absolute())
    atomic.check_replaceable(Path(journal.receipt))  # before anything is removed
    with ExitStack() as stack:
        _lock_runs(stack, scope, journal, wait)
        journal.write(scope.root)
        _remove_from_runs(scope, journal)
    for other in scope.other_roots:
        _forget_under(other, journal, wait)
    _forget_under(scope.root, journal, wait)
    written = make_receipt(journal, _left(scope, journal, removed=True), removed=True)
    atomic.remove_temporaries_of(Path(journal.receipt))
    atomic.write_text(Path(journal.receipt), json.dumps(written, indent=1) + "\n")
    for folder in runs:  # a power cut must not bring back what the journal no longer lists
        atomic.sync_filesystem(folder)
    journal.remove(scope.root)
    remove_empty_folders(scope.root)
    return {"receipt": journal.receipt} | written


def _find(scope: _Scope, patient: str, champions: Collection[Path] | None) -> Journal:
    """Everything of the patient, with what an interrupted withdrawal had found."""
    journal = _find_names(scope, patient)
    for older in read_journals(scope.root):
        if set(older.patients) & set(journal.patients):
            journal.continue_from(older)
    journal.series = sorted({*journal.series, *find_series(scope.files, journal.names)})
    evidence = _evidence(scope.root, journal)
    evidence = replace(evidence, own=evidence.own | find_contents(scope.folders.runs, evidence))
    journal.contents = sorted(evidence.own)
    fresh = Journal([], findings=list(find_in_files(scope.files, evidence, journal.stores)))
    fresh.learnt = find_learnt(scope.folders.runs, evidence)
    fresh.continue_from(journal)
    known = set(scope.folders.runs)
    fresh.elsewhere = [run for run in fresh.elsewhere if Path(run).resolve() not in known]
    for run in fresh.learnt:
        run.champion = None if champions is None else Path(run.run) in _resolved(champions)
    if not (fresh.roots or fresh.findings or fresh.learnt):
        raise InputError(
            f"{scope.root}: no store, ledger, map, run or split names the patient; give the "
            "archive's own id or the pseudonym, letter by letter, and --runs"
        )
    return fresh


def _resolved(paths: Collection[Path]) -> set[Path]:
    return {path.resolve() for path in paths}


def _find_names(scope: _Scope, patient: str) -> Journal:
    """The names of the patient in every root, and what is removed there."""
    journal = Journal([])
    given = [patient]
    for root in (scope.root, *scope.other_roots):
        for name in given:
            found = find_patient(root, name)
            if root is scope.root:
                journal.patients = sorted({*journal.patients, *found.ids})
            if not found.known:
                continue
            journal.patients = sorted({*journal.patients, *found.ids})
            told = forget_patient(root, name)
            journal.roots[str(root)] = _counts(told)
            journal.elsewhere = sorted({*journal.elsewhere, *told.learned_by})
            _add_traces(journal, root, found.ids, found.traces)
            break
        given = list(journal.patients)
    return journal


def _counts(told: ForgetSummary) -> dict[str, int]:
    return {
        "series in stores": told.series,
        "rows of ledgers": sum(int(str(each["rows"])) for each in told.ledgers),
        "previews": told.previews,
        "entries of the private map": told.map_entries,
    }


def _add_traces(
    journal: Journal, root: Storage, ids: Collection[str], traces: PatientTraces
) -> None:
    """Add series, studies, sources and volumes that only the patient has under a root."""
    own: dict[str, set[str]] = {"series": set(traces.series), "sources": set(traces.sources)}
    own["studies"] = set()
    for name in store_names(root):
        columns = ["patient_id", "study_uid", "content_digest"]
        for batch in catalogue.iter_batches(root / name, columns):
            mine = [line for line in batch.to_pylist() if line["patient_id"] in ids]
            own["studies"] |= {line["study_uid"] for line in mine}
            contents = {line["content_digest"] for line in mine}
            journal.contents = sorted({*journal.contents, *contents} - {""})
            if mine:
                journal.stores = sorted({*journal.stores, read_spec(root / name).digest})
    for line in lines_of_others(root, ids, ["series_uid", "study_uid", "source"]):
        own["series"].discard(line["series_uid"])
        own["studies"].discard(line["study_uid"])
        own["sources"].discard(line["source"])
    for kind, names in own.items():
        setattr(journal, kind, sorted({*getattr(journal, kind), *names} - {""}))


def _evidence(root: Storage, journal: Journal) -> Evidence:
    contents: dict[str, set[str]] = {}
    for name in store_names(root):
        for batch in catalogue.iter_batches(root / name, ["patient_id", "content_digest"]):
            for line in batch.to_pylist():
                contents.setdefault(line["patient_id"], set()).add(line["content_digest"])
    return Evidence(
        names=journal.names,
        root=root_digest(root),
        contents={patient: frozenset(held) for patient, held in contents.items()},
        own=frozenset(journal.contents),
    )


def _lock_runs(stack: ExitStack, scope: _Scope, journal: Journal, wait: float) -> None:
    """Hold the locks of the runs and split files that change. StoreBusy if one is in use."""
    touched = {Path(each.path) for each in journal.findings} | {Path(r.run) for r in journal.learnt}
    for run in scope.folders.runs:
        if any(run == path or run in path.parents for path in touched):
            for folder in (run, *sorted(run.glob("fold-*"))):
                for name in RUN_LOCKS:
                    if (folder / name).is_file():
                        stack.enter_context(locks.hold_lock(folder / name, wait_seconds=wait))
    for path in sorted(touched):
        lock = path.with_name(f".{path.name}.lock")
        if path.suffix == ".json" and lock.is_file() and lock.name not in RUN_LOCKS:
            stack.enter_context(locks.hold_lock(lock, wait_seconds=wait))


def _remove_from_runs(scope: _Scope, journal: Journal) -> None:
    evidence = _evidence(scope.root, journal)
    for each in journal.learnt:
        mark_tainted(Path(each.run), journal.digest, journal.when)
    for run in scope.folders.runs:
        _record_groups(run, journal)
    for finding in journal.findings:
        remove(
            finding,
            evidence,
            runs=scope.folders.runs,
            receipt=journal.digest,
            when=journal.when,
        )


def _record_groups(run: Path, journal: Journal) -> None:
    """Record in a fine-tuning run of which group the patient was, before the labels change."""
    groups = groups_of_patient(run, journal.names)
    if not any(groups.values()):
        return
    record, entry = Withdrawals.read(run).of_receipt(journal.digest, journal.when)
    entry.patients = {name: max(entry.patients[name], count) for name, count in groups.items()}
    record.write(run)


def _forget_under(root: Storage, journal: Journal, wait: float) -> None:
    """Erase the patient under one root, if anything there still names it."""
    for name in journal.patients:
        if is_named(root, name):
            forget_patient(root, name, yes=True, wait=wait)
            return


def _left(scope: _Scope, journal: Journal, *, removed: bool) -> list[dict[str, str]]:
    """What still names the patient, or may, and why it stays."""
    found = () if removed else journal.findings
    gone = {each.path for each in found}
    for each in found:
        if each.path.endswith(".csv"):
            gone |= set(map(str, listed_files(Path(each.path), journal.names)))
    left = [
        {"file": file, "why": why}
        for file, why in find_residue(scope.files, journal.names)
        if file not in gone
    ]
    why = "the run used a store with the patient, and is in no folder of --runs"
    return left + [{"file": run, "why": why} for run in journal.elsewhere]
