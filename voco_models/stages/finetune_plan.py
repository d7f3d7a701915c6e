"""The plan of a fine-tuning run: its labels, split, volumes and initial weights.

`make_plan` writes nothing, and raises InputError for inputs that do not fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_data.labels import (
    ORGAN_TARGETS,
    Labels,
    Split,
    TargetTable,
    join_labels,
    make_split,
    patients_sharing_volumes,
    read_labels,
)
from voco_data.store import Store
from voco_models.data import InputWindow, Item, ReducedVolumes, VolumeSource, input_window
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.initial_weights import InitialWeights, load_initial_weights
from voco_models.training import make_provenance


@dataclass(frozen=True, slots=True)
class Series:
    """Labelled series of a store, in row order, as lists of equal length."""

    rows: list[int]
    uids: list[str]
    patients: list[str]
    """Patient ids as in the split and the labels."""

    def select(self, patients: Sequence[str]) -> Series:
        """The series of `patients`, in row order."""
        members = set(patients)
        selected = [i for i, patient in enumerate(self.patients) if patient in members]
        return Series(
            rows=[self.rows[i] for i in selected],
            uids=[self.uids[i] for i in selected],
            patients=[self.patients[i] for i in selected],
        )

    def __len__(self) -> int:
        """How many series."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class FinetunePlan:
    """A fine-tuning run with checked inputs."""

    recipe: FinetuneRecipe
    volumes: VolumeSource
    labels: Labels
    """Labels of the store's patients."""
    series: Series
    window: InputWindow
    split: Split
    initial: InitialWeights
    provenance: dict[str, Any]
    targets: TargetTable = ORGAN_TARGETS
    """The target groups of the classifier, with the class weights of the score."""

    def items_of(self, series: Series) -> list[Item]:
        """Items of a loader for `series`."""
        return [Item(self.volumes, row) for row in series.rows]

    def classes_of(self, series: Series) -> dict[str, Tensor]:
        """Classes of the patients of N `series`, int64 (N,), by target group."""
        classes = self.labels.groups(series.patients)
        return {name: torch.from_numpy(classes[name]) for name in self.targets.names}

    def count_steps(self, fold: int) -> int:
        """Number of optimiser steps of a fold."""
        series = self.series.select(self.split.training(fold))
        return self.recipe.epochs * (len(series) // self.recipe.batch_size)


def make_plan(
    store: Store,
    labels: Path,
    recipe: FinetuneRecipe,
    *,
    init: str | Path,
    allow_unlabelled: bool = False,
    pseudonymise: Callable[[str], str] | None = None,
) -> FinetunePlan:
    """Check that the inputs fit together, and plan a run. Raises InputError if they do not."""
    recipe.view.check_grid(store.grid)
    joined = join_labels(
        read_labels(labels),
        store.catalogue["patient_id"].tolist(),
        allow_unlabelled=allow_unlabelled,
        pseudonymise=pseudonymise,
    )
    table = store.catalogue.assign(
        person=[joined.label_ids.get(str(p), str(p)) for p in store.catalogue["patient_id"]]
    )
    split = make_split(
        joined.labels.patient_ids,
        joined.labels.organs,
        n_folds=recipe.n_folds,
        seed=recipe.seed,
        linked=patients_sharing_volumes(table["person"], table["content_digest"]),
    )
    initial = load_initial_weights(init, recipe.backbone)
    averages = recipe.view.reduce == "average"
    plan = FinetunePlan(
        recipe=recipe,
        volumes=ReducedVolumes(store, recipe.view.shape) if averages else store,
        labels=joined.labels,
        window=input_window(recipe.window_hu, store.spec),
        series=_labelled_series(table, joined.labels),
        split=split,
        initial=initial,
        provenance=make_provenance(
            "finetune", recipe.to_json(), [store], split=split.digest, init=initial.name
        )
        | {"initial_weights": initial.to_json()},
    )
    for fold in range(recipe.n_folds):
        if plan.count_steps(fold) == 0:
            series = plan.series.select(split.training(fold))
            raise InputError(
                f"fold {fold} would train on {len(series)} series, "
                f"fewer than the recipe's batch of {recipe.batch_size}; label more patients"
            )
    return plan


def _labelled_series(catalogue: pd.DataFrame, labels: Labels) -> Series:
    """The series of a catalogue whose patient, in the column `person`, has labels."""
    table = catalogue[catalogue["person"].isin(labels.patient_ids)].sort_values("row")
    return Series(
        rows=[int(row) for row in table["row"]],
        uids=[str(uid) for uid in table["series_uid"]],
        patients=table["person"].tolist(),
    )
