"""Runs the jobs of an experiment, one after the other. A stopped job is continued.

OUT/runs/pretrain-<digest>/    a pretraining run, and job.json when it is finished
OUT/runs/finetune-<digest>/    a fine-tuning run with its evaluation, and job.json when it is scored
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable

from voco_models.data import Residence
from voco_models.experiments.jobs import FinetuneJob, PretrainJob, Trial
from voco_models.experiments.run_folders import TrialState, finish_run, is_finished, own_run
from voco_models.stages import evaluate, finetune, pretrain
from voco_models.training import checkpoint

log = logging.getLogger(__name__)


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
    with own_run(job.folder):
        if is_finished(job.folder, job.digest):  # by another process
            return "reused"
        return _train(job, resident, pseudonymise)


def _train(
    job: FinetuneJob, resident: Residence, pseudonymise: Callable[[str], str] | None
) -> TrialState:
    """Train and score a run that is not finished."""
    if job.pretraining is not None:
        with own_run(job.pretraining.folder):
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
        organ_boxes=job.organ_boxes,
        split=job.split,
        resume=is_begun,
        allow_unlabelled=job.allow_unlabelled,
        pseudonymise=pseudonymise,
        resident=resident,
    )
    # `resume`: a process that died after the evaluation does not open the test set another time.
    evaluate(job.folder, resume=True)
    finish_run(job.folder, job.digest, start)
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
    finish_run(job.folder, job.digest, start)
