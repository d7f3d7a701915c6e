"""Checks of all runs of an experiment before the first of them is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from voco_data.errors import InputError
from voco_data.selection import read_split
from voco_data.store import Store
from voco_models.experiments.declaration import SCRATCH
from voco_models.experiments.jobs import FinetuneJob, PretrainJob, Trial
from voco_models.experiments.run_folders import is_finished
from voco_models.recorded_options import values_to_record
from voco_models.stages import (
    FinetuneRecipe,
    PretrainRecipe,
    check_pretraining,
    make_plan,
)
from voco_models.training import to_plain


def check_trials(trials: Sequence[Trial], pseudonymise: Callable[[str], str] | None = None) -> None:
    """Raise InputError, as the stages would hours later, for a run that cannot be trained.

    Runs that are finished are not looked at. Of runs that differ in the seed alone, one is checked.
    """
    waiting = [job for t in trials for job in t.jobs if not is_finished(job.folder, job.digest)]
    before = {_pretrain_key(job.pretraining): job.pretraining for job in waiting if job.pretraining}
    for pretraining in before.values():
        _check_pretraining(pretraining)
    stores = {job.store: Store.open(job.store) for job in waiting}
    for job in {_finetune_key(job): job for job in waiting}.values():
        _check_finetuning(job, stores[job.store], pseudonymise)


def _pretrain_key(job: PretrainJob) -> tuple[tuple[str, ...], str]:
    """Equal for jobs that fit together or not for the same reasons."""
    recipe = replace(job.recipe, fit=replace(job.recipe.fit, seed=0))
    return job.stores, _text(recipe)


def _finetune_key(job: FinetuneJob) -> tuple[str, str, str]:
    """The same; the seed matters where it chooses patients."""
    recipe = job.recipe if job.recipe.label_fraction < 1 else replace(job.recipe, seed=0)
    return job.store, _text(recipe), SCRATCH if job.pretraining is not None else job.init


def _text(recipe: PretrainRecipe | FinetuneRecipe) -> str:
    return json.dumps(to_plain(values_to_record(recipe)), sort_keys=True)


def _check_pretraining(job: PretrainJob) -> None:
    if not is_finished(job.folder, job.digest):
        check_pretraining(job.stores, job.recipe, read_split(job.split))


def _check_finetuning(
    job: FinetuneJob, store: Store, pseudonymise: Callable[[str], str] | None
) -> None:
    recipe = job.recipe
    try:
        make_plan(
            store,
            job.labels,
            recipe,
            init=SCRATCH if job.pretraining is not None else job.init,
            image_labels=job.image_labels,
            organ_boxes=job.organ_boxes,
            split=read_split(job.split),
            allow_unlabelled=job.allow_unlabelled,
            pseudonymise=pseudonymise,
        )
    except InputError as error:
        if recipe.label_fraction == 1:
            raise
        raise InputError(
            f"experiment: label fraction {recipe.label_fraction:g} with seed {recipe.seed}: {error}"
        ) from error
