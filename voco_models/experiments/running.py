"""Runs the jobs of an experiment, one after the other. A stopped job is continued.

OUT/runs/pretrain-<digest>/    a pretraining run, and job.json when it is finished
OUT/runs/finetune-<digest>/    a fine-tuning run with its evaluation, and job.json when it is scored
OUT/locks/                     a lock file of each run: one process trains it, others wait
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from voco_data.errors import InputError, StoreBusy
from voco_data.storage import atomic, locks
from voco_models.data import Residence
from voco_models.experiments.jobs import FinetuneJob, PretrainJob, Trial
from voco_models.stages import evaluate, finetune, pretrain
from voco_models.training import checkpoint

log = logging.getLogger(__name__)

JOB_FILE = "job.json"
"""Digest and duration of a finished job, in its folder. It is written last."""

LOCKS = "locks"

TrialState = Literal["reused", "continued", "trained"]


def is_finished(folder: Path, digest: str) -> bool:
    """Whether a job was finished before. Raises InputError if its folder has another job's file."""
    try:
        description = json.loads((folder / JOB_FILE).read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / JOB_FILE}: cannot be read; remove {folder}") from error
    if description.get("digest") != digest:
        raise InputError(f"{folder}: expected the run {digest}, found another; remove the folder")
    return True


def run_trial(
    trial: Trial,
    *,
    resident: Residence = "none",
    pseudonymise: Callable[[str], str] | None = None,
) -> TrialState:
    """Train and score the runs of a trial; only what is missing.

    Returns `reused` if all existed, `continued` if one had been stopped, else `trained`.
    """
    states = set()
    for job in trial.jobs:
        state = run_job(job, resident=resident, pseudonymise=pseudonymise)
        log.info("%s: %s, %s", trial.name, state, job.folder)
        states.add(state)
    return next(state for state in ("continued", "trained", "reused") if state in states)


def run_job(
    job: FinetuneJob,
    *,
    resident: Residence = "none",
    pseudonymise: Callable[[str], str] | None = None,
) -> TrialState:
    """Pretrain if the run needs it, train the classifier, and score it; only what is missing."""
    if is_finished(job.folder, job.digest):
        return "reused"
    with _own(job.folder):
        if is_finished(job.folder, job.digest):  # by another process
            return "reused"
        return _train(job, resident, pseudonymise)


@contextmanager
def _own(folder: Path) -> Iterator[None]:
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


def _train(
    job: FinetuneJob, resident: Residence, pseudonymise: Callable[[str], str] | None
) -> TrialState:
    """Train and score a run that is not finished."""
    if job.pretraining is not None:
        with _own(job.pretraining.folder):
            _run_pretraining(job.pretraining, resident)
    is_begun = (job.folder / checkpoint.RUN_FILE).exists()
    start = time.perf_counter()
    finetune(
        job.store,
        job.labels,
        job.folder,
        init=job.init,
        recipe=job.recipe,
        image_labels=job.image_labels,
        split=job.split,
        resume=is_begun,
        allow_unlabelled=job.allow_unlabelled,
        pseudonymise=pseudonymise,
        resident=resident,
    )
    # `resume`: a process that died after the evaluation does not open the test set another time.
    evaluate(job.folder, resume=True)
    _finish(job.folder, job.digest, start)
    return "continued" if is_begun else "trained"


def _run_pretraining(job: PretrainJob, resident: Residence) -> None:
    """Pretrain, unless this was done before."""
    if is_finished(job.folder, job.digest):
        return
    is_begun = (job.folder / checkpoint.CHECKPOINT).exists()
    if job.folder.exists() and not is_begun:  # stopped before its first checkpoint
        shutil.rmtree(job.folder)
    start = time.perf_counter()
    pretrain(
        job.stores,
        job.folder,
        recipe=job.recipe,
        split=job.split,
        resume=is_begun,
        resident=resident,
    )
    _finish(job.folder, job.digest, start)


def _finish(folder: Path, digest: str, start: float) -> None:
    """Write `job.json`."""
    values: dict[str, Any] = {"digest": digest, "seconds": time.perf_counter() - start}
    atomic.write_text(folder / JOB_FILE, json.dumps(values, indent=2) + "\n")
