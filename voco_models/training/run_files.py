"""The digests of a run's files, in `RUN/run.json`, by which a lost or changed file is noticed.

    "files": {"backbone.pt": {"bytes": 812345, "sha256": "..."}, "fold-0/checkpoint.pt": ..., ...},
    "digest": "<SHA-256 of the other entries of run.json>"

`files` is null while a run trains, and written when it ends. Runs of older versions have neither.
Files that change later are not in it: the record of evaluations and their pages, the mark and the
record of forgotten patients, and TensorBoard's copies of the tables. A file that was rewritten
because a patient was forgotten is known by `RUN/withdrawals.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from voco_data.errors import InputError
from voco_data.withdrawal import Withdrawals, is_tainted
from voco_models.training import checkpoint
from voco_models.training.export import CARD, WEIGHTS
from voco_models.training.health import HEALTH, PROBES
from voco_models.training.history import HISTORY
from voco_models.training.provenance import hash_file

FILES, DIGEST = checkpoint.FILES, checkpoint.DIGEST
PAGE_OF_PRETRAINING = "report.html"
TRAINING_FILES = (checkpoint.CHECKPOINT, HISTORY)
ARTIFACTS = (
    *TRAINING_FILES,
    HEALTH,
    PROBES,
    checkpoint.BACKBONE,
    WEIGHTS,
    CARD,
    "networks.safetensors",
    "split.json",
    "patients.json",
    "labels.parquet",
    "predictions.parquet",
    "decision.json",
)
"""Files that stages write to a run."""
FOLD_FILES = (*TRAINING_FILES, "predictions.parquet")
"""Files of each folder `fold-<i>`."""

Damage = Literal["missing", "torn", "changed", "unreadable"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one file of a run."""

    file: str
    """Relative to the run."""
    damage: Damage
    detail: str = ""

    @property
    def text(self) -> str:
        """As a message says it."""
        return f"{self.file}: {self.damage}" + (f", {self.detail}" if self.detail else "")


def complete_run(run: Path, description: Mapping[str, Any]) -> None:
    """Write `RUN/run.json` with the digests of all files of the run, when it has ended.

    Raises VocoError if it cannot be written, InputError if a file cannot be read.
    """
    files = {
        name: {"bytes": (run / name).stat().st_size, "sha256": hash_file(run / name)}
        for name in list_artifacts(run, description.get("stage"))
    }
    values = {name: value for name, value in description.items() if name != DIGEST}
    values[FILES] = files
    checkpoint.replace_description(run, values | {DIGEST: _digest_of(values)})


def mark_incomplete(run: Path) -> None:
    """Take the digests out of `RUN/run.json`, before a run that had ended goes on."""
    description = checkpoint.read_run(run)
    if description.get(FILES) is not None:
        checkpoint.write_run(run, description)


def list_artifacts(run: Path, stage: object) -> list[str]:
    """Names of the files that stages have written to a run, sorted. `/` separates folders."""
    page = (PAGE_OF_PRETRAINING,) if stage == "pretrain" else ()
    folds = [path.name for path in run.glob("fold-*")]
    names = [*ARTIFACTS, *page, *(f"{fold}/{name}" for fold in folds for name in FOLD_FILES)]
    return sorted(name for name in names if (run / name).is_file())


def find_faults(run: Path, description: Mapping[str, Any]) -> Iterator[Fault]:
    """Compare the files of a run that has ended with the digests in its description."""
    withdrawals = Withdrawals.read(run)
    files = description[FILES]
    if not _is_table_of_digests(files) or not isinstance(description.get(DIGEST), str):
        yield Fault(checkpoint.RUN_FILE, "changed", "its digests cannot be read")
        return
    yield from _find_fault_of_description(run, description, withdrawals)
    for name, recorded in files.items():
        yield from _find_fault(run, name, recorded, withdrawals)


def check_before_resume(run: Path) -> None:
    """Raise InputError if a file of a run that has ended has changed since.

    Files that are missing are made again by the resumed run, and so is a history. A run that did
    not end, or of an older version, has no digests to compare with.
    """
    description = checkpoint.read_run(run)
    if description.get(FILES) is None:
        return
    for fault in find_faults(run, description):
        if fault.damage != "missing" and PurePosixPath(fault.file).name != HISTORY:
            raise InputError(
                f"{run}: cannot resume: {fault.text} since the run ended; restore the file from a "
                "copy, or remove it to let the run make it again"
            )


def _find_fault(
    run: Path, name: str, recorded: Mapping[str, Any], withdrawals: Withdrawals
) -> Iterator[Fault]:
    path = run / name
    if not path.exists():
        # `voco forget` removes pages that name the patient, without a record of them
        is_removed = path.suffix == ".html" and (bool(withdrawals.entries) or is_tainted(run))
        if not is_removed:
            yield Fault(name, "missing")
        return
    try:
        now, size = hash_file(path), path.stat().st_size
    except (InputError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        yield Fault(name, "unreadable", getattr(cause, "strerror", None) or "")
        return
    if withdrawals.is_unfinished(name, now):
        yield Fault(name, "changed", "it holds a patient who was forgotten; repeat voco forget")
    elif not withdrawals.explains(name, recorded["sha256"], now):
        if size < recorded["bytes"]:
            yield Fault(name, "torn", f"{size} of {recorded['bytes']} bytes")
        else:
            yield Fault(name, "changed")


def _find_fault_of_description(
    run: Path, description: Mapping[str, Any], withdrawals: Withdrawals
) -> Iterator[Fault]:
    now = hash_file(run / checkpoint.RUN_FILE)
    was_rewritten = withdrawals.first_digest(checkpoint.RUN_FILE, now) != now
    values = {name: value for name, value in description.items() if name != DIGEST}
    if withdrawals.is_unfinished(checkpoint.RUN_FILE, now):
        detail = "it holds a patient who was forgotten; repeat voco forget"
        yield Fault(checkpoint.RUN_FILE, "changed", detail)
    elif description[DIGEST] != _digest_of(values) and not was_rewritten:
        yield Fault(checkpoint.RUN_FILE, "changed")


def _digest_of(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_table_of_digests(files: object) -> bool:
    """Whether it is a digest and a size for files inside a run."""
    return isinstance(files, dict) and all(
        isinstance(value, dict)
        and isinstance(value.get("sha256"), str)
        and type(value.get("bytes")) is int
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name, value in files.items()
    )
