"""The task that brings a split file up to date, for the flows `retrain` and `demo`."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.ids import patient_pseudonymiser
from flows.parameter_types import StoreLocation
from voco_data import selection
from voco_models import stages


@task(name="update split", cache_policy=NO_CACHE)
def update_split(
    store: StoreLocation, labels: Path, out: Path, recipe: str, changes: tuple[str, ...] = ()
) -> Path:
    """Make the split file `out` with the folds of a fine-tuning recipe, or append new patients."""
    selection.update_split(
        store,
        out,
        labels,
        n_folds=stages.finetune_recipe(recipe, changes).n_folds,
        pseudonymise=patient_pseudonymiser(store),
    )
    return out
