"""The declaration of an experiment: arms, backbones, seeds and fractions of labels, from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS
from voco_models.experiments.declared_values import (
    check_changes,
    check_different,
    check_fractions,
    check_reference,
    check_tables,
    name_of_option,
    place_path,
    place_recipe,
    read_table,
)
from voco_models.experiments.projections.declaration import (
    ProjectionExperiment,
    build_projection_experiment,
)
from voco_models.stages import build_recipe

FINETUNE, PROJECT = "finetune", "project"
"""Stages whose runs an experiment compares."""
SCRATCH = "scratch"
INITS = (SCRATCH, "imagenet")
SEEDS = (0, 1, 2, 3, 4)
_OWN_OPTIONS = {
    "backbone": "give backbones of the experiment",
    "seed": "give seeds of the experiment",
    "fit.seed": "give seeds of the experiment",
    "label_fraction": "give label_fractions of the experiment",
}
"""Options of recipes that an experiment sets, and what to give instead."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to start the classifier: fresh, ImageNet's or given weights, or pretraining."""

    init: str = SCRATCH
    """`scratch`, `imagenet`, a file of weights, or the folder of a run; without `pretrain`."""
    pretrain: tuple[str, ...] = ()
    """Stores to pretrain on. The weights of this run are then the first ones."""
    recipe: str = "default"
    """Recipe of pretraining: a name, or a `.toml` file."""
    changes: tuple[str, ...] = ()
    """Changes of this recipe, `name=value` each."""
    finetune_changes: tuple[str, ...] = ()
    """Changes of the fine-tuning recipe in this arm, after those of the experiment."""
    organ_stores: dict[str, str] = field(default_factory=dict)
    """For a single-organ arm: by organ, a store whose volumes show that organ. Each organ then has
    a classifier of its own. `voco preprocess --boxes` fills such stores."""
    organ_boxes: str | None = None
    """Table of `voco localise` with boxes of organs, to train the head `organ_queries`."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Arms x backbones x fractions of labels x seeds, on one store, one split, one recipe."""

    store: str
    """Store that the classifiers are trained and tested on."""
    labels: str
    """Table of labels; see `voco_data.labels`."""
    arms: dict[str, Arm]
    """The arms by name."""
    reference: str
    """The arm that the others are compared with."""
    image_labels: str | None = None
    """Table of labels of images, `image_level_labels.csv`, for recipes with `slice_weight`."""
    out: str = "."
    """Folder of the runs, the tables and the report."""
    split: str | None = None
    """File of `voco split`. Without it, `split.json` in `out` is made, once."""
    recipe: str = "default"
    """Recipe of fine-tuning: a name, or a `.toml` file."""
    changes: tuple[str, ...] = ()
    """Changes of this recipe, `name=value` each."""
    backbones: tuple[str, ...] = ()
    """Backbones to compare; that of the recipe if none is named."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of pretraining and fine-tuning."""
    label_fractions: tuple[float, ...] = (1.0,)
    """Fractions of the labelled patients outside the test set; see `label_fraction` of recipes."""
    allow_unlabelled: bool = False
    """Leave out patients of the store that have no labels."""

    def __post_init__(self) -> None:
        check_reference(self.reference, self.arms)
        check_different("seeds", self.seeds)
        check_different("label_fractions", self.label_fractions)
        check_fractions("label_fractions", self.label_fractions)
        if len(set(self.backbones)) < len(self.backbones):
            raise InputError(f"experiment: a backbone is named twice in {list(self.backbones)}")
        self._check_changes()

    def _check_changes(self) -> None:
        """Raise InputError for a change of a recipe that would have no effect."""
        common = [c for c in self.changes if self.backbones or name_of_option(c) != "backbone"]
        check_changes("changes", common, _OWN_OPTIONS)
        for name, arm in self.arms.items():
            check_changes(f"arms.{name}.changes", arm.changes, _OWN_OPTIONS)
            check_changes(f"arms.{name}.finetune_changes", arm.finetune_changes, _OWN_OPTIONS)

    def in_folder(self, folder: Path) -> Experiment:
        """The experiment with its paths relative to `folder`; URLs as they are."""

        def place(path: str) -> str:
            return place_path(path, folder)

        def place_arm(arm: Arm) -> Arm:
            return replace(
                arm,
                init=arm.init if arm.init in INITS else place(arm.init),
                pretrain=tuple(place(store) for store in arm.pretrain),
                recipe=place_recipe(arm.recipe, folder),
                organ_stores={organ: place(store) for organ, store in arm.organ_stores.items()},
                organ_boxes=None if arm.organ_boxes is None else place(arm.organ_boxes),
            )

        return replace(
            self,
            store=place(self.store),
            labels=place(self.labels),
            image_labels=None if self.image_labels is None else place(self.image_labels),
            out=place(self.out),
            split=None if self.split is None else place(self.split),
            recipe=place_recipe(self.recipe, folder),
            arms={name: place_arm(arm) for name, arm in self.arms.items()},
        )


def read_experiment(file: str | Path) -> Experiment | ProjectionExperiment:
    """Read a declaration. Raises InputError, of one line, for what is missing or not possible.

    `stage` in the file says what is compared: classifiers (`finetune`, the default) or 3D-to-2D
    networks (`project`).
    """
    path = Path(file)
    table = read_table(path)
    try:
        stage = table.pop("stage", FINETUNE)
        if stage == PROJECT:
            return build_projection_experiment(table, path.parent)
        if stage != FINETUNE:
            raise InputError(f"experiment: stage: expected {FINETUNE} or {PROJECT}, got {stage!r}")
        check_tables(Experiment, Arm, table)
        for name, arm in table["arms"].items():
            _check_arm(name, arm)
        return build_recipe(Experiment, table).in_folder(path.parent)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('recipe: ')}") from error


def _check_arm(name: str, arm: Any) -> None:
    """Raise InputError for an arm that has two origins, or stores of other organs."""
    if "init" in arm and "pretrain" in arm:
        raise InputError(
            f"experiment: arms.{name}: give init or pretrain, not both; the weights of a "
            "pretraining run are its init"
        )
    organs = arm.get("organ_stores", {})
    if organs and (not isinstance(organs, dict) or set(organs) != set(ORGAN_TARGETS.names)):
        raise InputError(
            f"experiment: arms.{name}.organ_stores: expected a store for each of "
            f"{', '.join(ORGAN_TARGETS.names)}, got {organs!r}"
        )
