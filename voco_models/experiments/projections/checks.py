"""Checks of all runs of an experiment of 3D-to-2D networks before the first is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from voco_data.selection import read_split
from voco_models.experiments.projections.jobs import ProjectionJob, ProjectionTrial
from voco_models.experiments.run_folders import is_finished
from voco_models.recorded_options import values_to_record
from voco_models.stages import check_projection
from voco_models.training import to_plain


def check_projection_trials(trials: Sequence[ProjectionTrial]) -> None:
    """Raise InputError, as the stage would hours later, for a run that cannot be trained.

    Runs that are finished are not looked at. Of runs that differ in the seed and the number of
    masks alone, one is checked.
    """
    jobs = [job for t in trials for job in (t.job.pretext, t.job) if job is not None]
    waiting = [job for job in jobs if not is_finished(job.folder, job.digest)]
    for job in {_key(job): job for job in waiting}.values():
        check_projection([job.store], job.recipe, read_split(job.split), job.images)


def _key(job: ProjectionJob) -> tuple[str, Path | None]:
    """Equal for jobs that can be trained or not for the same reasons."""
    recipe = replace(job.recipe, fit=replace(job.recipe.fit, seed=0), masks=None)
    return json.dumps(to_plain(values_to_record(recipe)), sort_keys=True), job.images
