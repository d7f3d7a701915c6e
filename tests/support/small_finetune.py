"""A small cohort in a store with its label table, and a recipe that takes seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from tests.support.small_stores import make_store, random_volumes
from voco_data.labels.targets import GRADES, ORGAN_TARGETS
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_models.data.augment_volumes import Augmentation
from voco_models.data.volume_view import VolumeView
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES, FinetuneRecipe

PATIENTS = 14
GRID = (4, 32, 32)

RECIPE: FinetuneRecipe = dataclasses.replace(
    FINETUNE_RECIPES["tiny"],
    name="small",
    view=VolumeView(slices=4, size_px=32, reduce="average"),
    augmentation=Augmentation(log_gamma=0.2, shift=0.05),
    epochs=2,
    lr=3e-3,
    batch_size=2,
    head="bilstm",
    hidden=4,
    pooling="quadrants",
    feature_norm="batch",
    over_slices="max_mean",
    attention_weight=0.0,
    dropout=0.1,
    n_folds=2,
    log_every=2,
    checkpoint_every=2,
)


def grades_of(count: int = PATIENTS, seed: int = 0) -> np.ndarray:
    """(count, 3) grades with every class of every organ."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(np.arange(count) % 3) for _ in ORGAN_TARGETS], axis=1)


def write_labels(path: Path, ids: list[str], grades: np.ndarray, *, binary: bool = True) -> Path:
    """A table in the form of RATIC's train.csv."""
    columns = {
        f"{organ}_{name}": (grades[:, i] == grade).astype(int)
        for i, organ in enumerate(ORGAN_TARGETS.names)
        for grade, name in enumerate(GRADES)
    }
    if binary:
        injured = np.arange(len(ids)) % 4 == 0
        for group in ("bowel", "extravasation"):
            columns |= {f"{group}_healthy": 1 - injured, f"{group}_injury": injured.astype(int)}
    pd.DataFrame({"patient_id": ids, **columns}).to_csv(path, index=False)
    return path


def small_cohort(
    folder: Path, *, binary: bool = True, change: Callable[[Record], Record] = lambda record: record
) -> tuple[Store, Path]:
    """A store of one volume a patient, and its label table with two patients more.

    `change` makes another record of each.
    """
    store = make_store(folder, random_volumes(PATIENTS, GRID), change=change)
    ids = [*sorted(store.catalogue["patient_id"]), "elsewhere-1", "elsewhere-2"]
    labels = write_labels(folder / "train.csv", ids, grades_of(len(ids)), binary=binary)
    return store, labels
