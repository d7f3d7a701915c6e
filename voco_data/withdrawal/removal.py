"""Remove what was found. Each step may be repeated, and a file is replaced completely or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from voco_data.selection import SeenPatients
from voco_data.storage import atomic
from voco_data.withdrawal import documents, tables, weight_files
from voco_data.withdrawal.learnt import Evidence
from voco_data.withdrawal.records import Withdrawals, hash_file
from voco_data.withdrawal.search import (
    CACHE,
    CACHE_DESCRIPTION,
    ENTRIES,
    IDS,
    PATIENTS,
    REWRITTEN,
    Finding,
    entries_of_patients_file,
)


def remove(
    finding: Finding,
    evidence: Evidence,
    *,
    runs: Sequence[Path],
    receipt: str,
    when: str,
) -> None:
    """Remove what a finding names; nothing if that is done. Changes are recorded in its run.

    `runs` are folders of training runs, and `receipt` the digest of the receipt.
    """
    path = Path(finding.path)
    if finding.kind == CACHE:
        _remove_cache(path)
    elif finding.kind in REWRITTEN:
        if path.is_file():
            _rewrite(path, finding.kind, evidence, _run_of(path, runs), receipt, when)
    else:
        path.unlink(missing_ok=True)


def _rewrite(
    path: Path, kind: str, evidence: Evidence, run: Path | None, receipt: str, when: str
) -> None:
    """Replace a file by one without the patient; its run records both digests before."""
    atomic.remove_temporaries_of(path)  # of a removal that was killed
    if path.suffix == ".csv":
        tables.remove_listed_files(path, evidence.names)
    with atomic.replacing(path) as temporary:
        _write_without(path, temporary, kind, evidence)
        shutil.copymode(path, temporary)
        if run is not None:
            _record(run, path, temporary, evidence, receipt, when)


def _write_without(path: Path, out: Path, kind: str, evidence: Evidence) -> None:
    if path.name == PATIENTS:
        out.write_text(_patients_without(path, evidence))
    elif kind == ENTRIES:
        documents.write_without(path, out, evidence.names)
    elif kind == IDS:
        weight_files.write_without(path, out, evidence.names)
    else:
        tables.write_without(path, out, evidence.names)


def _patients_without(path: Path, evidence: Evidence) -> str:
    text = path.read_text()
    data = json.loads(text)
    for store, patient in entries_of_patients_file(path, evidence):
        del data["stores"][store]["patients"][patient]
    data["stores"] = [store for store in data["stores"] if store["patients"]]
    return documents.format_like(data, text)


def _record(run: Path, path: Path, new: Path, evidence: Evidence, receipt: str, when: str) -> None:
    """Record the change of a file in its run. Made again after a kill, the record is corrected."""
    record, entry = Withdrawals.read(run).of_receipt(receipt, when)
    name = path.relative_to(run).as_posix()
    before = entry.files.get(name, {}).get("before") or hash_file(path)
    entry.files[name] = {"before": before, "after": hash_file(new)}
    if path.name == PATIENTS and path.parent == run:
        seen = SeenPatients.read(run)
        assert seen is not None, "the file is there"
        before = entry.patients_digest.get("before") or seen.digest
        after = seen.without(entries_of_patients_file(path, evidence)).digest
        entry.patients_digest = {"before": before, "after": after}
    record.write(run)


def _run_of(path: Path, runs: Sequence[Path]) -> Path | None:
    """The innermost of the runs that a file belongs to."""
    parents = set(path.parents)
    inside = [run for run in runs if run in parents]
    return max(inside, key=lambda run: len(run.parts), default=None)


def _remove_cache(folder: Path) -> None:
    """Remove a folder of features; its description last, by which a repeated removal finds it."""
    description = folder / CACHE_DESCRIPTION
    if not folder.is_dir():
        return
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif each != description:
            each.unlink()
    description.unlink(missing_ok=True)
    with suppress(OSError):  # another process writes there
        folder.rmdir()
