"""Runs the trials of an experiment of 3D-to-2D networks. A stopped run is continued."""

from __future__ import annotations

import logging
import shutil
import time

from voco_data.store import Store
from voco_models.data import Residence
from voco_models.experiments.projections.jobs import ProjectionJob, ProjectionTrial
from voco_models.experiments.run_folders import TrialState, finish_run, is_finished, own_run
from voco_models.stages import project, score_projection
from voco_models.training import checkpoint

log = logging.getLogger(__name__)


def run_projection_trial(trial: ProjectionTrial, *, resident: Residence = "none") -> TrialState:
    """Train and score the run of a trial, and the one before it; only what is missing.

    Returns `reused` if it existed, `continued` if it had been stopped, else `trained`.
    """
    job = trial.job
    state: TrialState = "reused"
    if not is_finished(job.folder, job.digest):
        with own_run(job.folder):
            if not is_finished(job.folder, job.digest):  # by another process
                state = _train_and_score(trial, resident)
    log.info("%s: %s, %s", trial.name, state, job.folder)
    return state


def _train_and_score(trial: ProjectionTrial, resident: Residence) -> TrialState:
    job = trial.job
    is_begun = False
    if job.pretext is not None:
        with own_run(job.pretext.folder):
            if not is_finished(job.pretext.folder, job.pretext.digest):
                start = time.perf_counter()
                is_begun = _train(job.pretext, resident)
                finish_run(job.pretext.folder, job.pretext.digest, start)
    start = time.perf_counter()
    is_begun |= _train(job, resident)
    score_projection(job.folder, Store.open(job.store), trial.series.test_rows)
    finish_run(job.folder, job.digest, start)
    return "continued" if is_begun else "trained"


def _train(job: ProjectionJob, resident: Residence) -> bool:
    """Train a run to its end; returns whether it had been begun before."""
    is_begun = (job.folder / checkpoint.CHECKPOINT).exists()
    if job.folder.exists() and not is_begun:  # stopped before its first checkpoint
        shutil.rmtree(job.folder)
    project(
        [job.store],
        job.folder,
        init="scratch" if job.pretext is None else job.pretext.folder,
        images=job.images,
        recipe=job.recipe,
        split=job.split,
        resume=is_begun,
        resident=resident,
    )
    return is_begun
