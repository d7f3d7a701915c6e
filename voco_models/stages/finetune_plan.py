"""Everything that fine-tuning decides before it starts: labels, split, volumes, first weights.

Making a plan writes nothing, and raises InputError for inputs that cannot be trained on.
"""

from __future__ import annotations

import hashlib
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
from voco_models.networks import Backbone, create_backbone
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.training import checkpoint, make_provenance

SCRATCH, IMAGENET = "scratch", "imagenet"


@dataclass(frozen=True, slots=True)
class Series:
    """The labelled series of a store, in row order; lists of equal length."""

    rows: list[int]
    uids: list[str]
    patients: list[str]
    """Patient ids as in the split and the labels."""

    def of(self, patients: Sequence[str]) -> Series:
        """The series of `patients`."""
        members = set(patients)
        chosen = [i for i, patient in enumerate(self.patients) if patient in members]
        return Series(
            rows=[self.rows[i] for i in chosen],
            uids=[self.uids[i] for i in chosen],
            patients=[self.patients[i] for i in chosen],
        )

    def __len__(self) -> int:
        """How many series."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class FirstWeights:
    """The weights that the backbone starts from."""

    name: str
    """`scratch`, `imagenet`, or `run:` and the digest of the file of weights."""
    weights: dict[str, Tensor] | None
    """None: drawn at random in each fold."""
    provenance: dict[str, Any] | None
    """Of the pretraining run."""


@dataclass(frozen=True, slots=True)
class FinetunePlan:
    """A fine-tuning run that can start."""

    recipe: FinetuneRecipe
    volumes: VolumeSource
    labels: Labels
    """Of the store's patients."""
    series: Series
    window: InputWindow
    split: Split
    first: FirstWeights
    provenance: dict[str, Any]
    targets: TargetTable = ORGAN_TARGETS
    """The groups that are learnt, with the weights of the score."""

    def items(self, series: Series) -> list[Item]:
        """The volumes of `series`, for a loader."""
        return [Item(self.volumes, row) for row in series.rows]

    def classes(self, series: Series) -> dict[str, Tensor]:
        """Class of each series' patient, int64 (N,), for every group that is learnt."""
        classes = self.labels.groups(series.patients)
        return {name: torch.from_numpy(classes[name]) for name in self.targets.names}

    def steps(self, fold: int) -> int:
        """Optimiser steps of a fold."""
        series = self.series.of(self.split.training(fold))
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
    """Check the inputs against each other and decide everything that a run needs."""
    recipe.view.check(store.grid)
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
    first = first_weights(init, recipe)
    shrink = recipe.view.reduce == "average"
    plan = FinetunePlan(
        recipe=recipe,
        volumes=ReducedVolumes(store, recipe.view.shape) if shrink else store,
        labels=joined.labels,
        window=input_window(recipe.window_hu, store.spec),
        series=_labelled_series(table, joined.labels),
        split=split,
        first=first,
        provenance=make_provenance(
            "finetune", recipe.to_json(), [store], split=split.digest, init=first.name
        ),
    )
    for fold in range(recipe.n_folds):
        if plan.steps(fold) == 0:
            raise InputError(
                f"fold {fold} would train on {len(plan.series.of(split.training(fold)))} series, "
                f"fewer than the recipe's batch of {recipe.batch_size}; label more patients"
            )
    return plan


def first_weights(init: str | Path, recipe: FinetuneRecipe) -> FirstWeights:
    """The weights that `init` names: scratch, imagenet, or the folder of a pretraining run."""
    if init == SCRATCH:
        create_backbone(recipe.backbone)
        return FirstWeights(SCRATCH, None, None)
    if init == IMAGENET:
        backbone = create_backbone(recipe.backbone, pretrained=True)
        return FirstWeights(IMAGENET, backbone.state_dict(), None)
    run = Path(init)
    file = run / checkpoint.BACKBONE
    if not file.is_file():
        raise InputError(
            f"init: expected {SCRATCH}, {IMAGENET} or the folder of a finished pretraining run "
            f"with {checkpoint.BACKBONE}, got {init}"
        )
    backbone, provenance = checkpoint.load_backbone(run)
    _check_backbone(backbone, recipe, run)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return FirstWeights(f"run:{digest}", backbone.state_dict(), provenance)


def _check_backbone(backbone: Backbone, recipe: FinetuneRecipe, run: Path) -> None:
    if backbone.name != recipe.backbone or backbone.in_chans != 1:
        raise InputError(
            f"init: {run} holds {backbone.name} with {backbone.in_chans} channels, the recipe "
            f"{recipe.name} needs {recipe.backbone} with 1; use the recipe that fits the run"
        )


def _labelled_series(catalogue: pd.DataFrame, labels: Labels) -> Series:
    """The series of a catalogue, with its column `person`, whose persons have labels."""
    table = catalogue[catalogue["person"].isin(labels.patient_ids)].sort_values("row")
    return Series(
        rows=[int(row) for row in table["row"]],
        uids=[str(uid) for uid in table["series_uid"]],
        patients=table["person"].tolist(),
    )
