"""The folders of runs: a digest of all that decides a result, `job.json` at its end, and locks.

A run that exists under its digest is the same run: another experiment of the folder reuses it.

OUT/runs/<stage>-<digest>/     a run, and job.json when it is finished
OUT/locks/                     a lock file of each run: one process trains it, others wait
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from voco_data.errors import InputError, StoreBusy
from voco_data.selection import Selection
from voco_data.storage import atomic, locks
from voco_models.training import to_plain

log = logging.getLogger(__name__)

RUNS, LOCKS, SPLIT = "runs", "locks", "split.json"
JOB_FILE = "job.json"
"""Digest and duration of a finished run, in its folder. It is written last."""
DIGEST_LENGTH = 12

TrialState = Literal["reused", "continued", "trained"]


def hash_values(values: Mapping[str, object]) -> str:
    """The digest of a run: 12 hex digits of the SHA-256 of all that decides its result."""
    text = json.dumps(to_plain(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def describe_selection(selection: Selection) -> dict[str, object]:
    """The patients of a file, whatever its name; empty without one: recipes name all else."""
    if selection.patients_file is None:
        return {}
    return {"patients": sorted(selection.patient_ids or ())}


def is_finished(folder: Path, digest: str) -> bool:
    """Whether a run was finished before. Raises InputError if its folder has another run's file."""
    try:
        description = json.loads((folder / JOB_FILE).read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / JOB_FILE}: cannot be read; remove {folder}") from error
    if description.get("digest") != digest:
        raise InputError(f"{folder}: expected the run {digest}, found another; remove the folder")
    return True


@contextmanager
def own_run(folder: Path) -> Iterator[None]:
    """Be the only process that writes a run; wait for another one to end, however long it trains.

    The lock is outside of the run, which may be removed. It ends with its process.
    """
    lock = folder.parent.with_name(LOCKS) / f"{folder.name}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.hold_lock(lock))
        except StoreBusy:
            log.info("%s: another process trains this run; waiting for it", folder)
            stack.enter_context(locks.hold_lock(lock, wait_seconds=math.inf))
        yield


def finish_run(folder: Path, digest: str, start: float) -> None:
    """Write `job.json`; `start` is the time at which the run began, of `time.perf_counter`."""
    values: dict[str, Any] = {"digest": digest, "seconds": time.perf_counter() - start}
    atomic.write_text(folder / JOB_FILE, json.dumps(values, indent=2) + "\n")
