"""The declaration of an experiment: arms, backbones, seeds and fractions of labels, from TOML."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS
from voco_data.storage import is_url
from voco_models.stages import build_recipe

SCRATCH = "scratch"
INITS = (SCRATCH, "imagenet")
SEEDS = (0, 1, 2, 3, 4)
_OWN_OPTIONS = {
    "backbone": "backbones",
    "seed": "seeds",
    "fit.seed": "seeds",
    "label_fraction": "label_fractions",
}
"""Options of recipes that an experiment sets, and the names of its own options for them."""


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
        if self.reference not in self.arms:
            raise InputError(
                f"experiment: reference: expected one of the arms {', '.join(self.arms)}, got "
                f"{self.reference!r}"
            )
        for name in ("seeds", "label_fractions"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(
                    f"experiment: {name} must be one or more different numbers, got {list(values)}"
                )
        if not all(0 < fraction <= 1 for fraction in self.label_fractions):
            raise InputError(
                "experiment: label_fractions must be above 0 and at most 1, got "
                f"{list(self.label_fractions)}"
            )
        if len(set(self.backbones)) < len(self.backbones):
            raise InputError(f"experiment: a backbone is named twice in {list(self.backbones)}")
        self._check_changes()

    def _check_changes(self) -> None:
        """Raise InputError for a change of a recipe that would have no effect."""
        given = {"changes": [c for c in self.changes if self.backbones or _option(c) != "backbone"]}
        for name, arm in self.arms.items():
            given[f"arms.{name}.changes"] = list(arm.changes)
            given[f"arms.{name}.finetune_changes"] = list(arm.finetune_changes)
        for place, changes in given.items():
            for option in map(_option, changes):
                if option in _OWN_OPTIONS:
                    raise InputError(
                        f"experiment: {place}: {option} has no effect here; give "
                        f"{_OWN_OPTIONS[option]} of the experiment"
                    )


def _option(change: str) -> str:
    """The name of the option in a change, `name=value`."""
    return change.partition("=")[0].strip()


def read_experiment(file: str | Path) -> Experiment:
    """Read a declaration. Raises InputError, of one line, for what is missing or not possible."""
    path = Path(file)
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot read the experiment ({error.strerror})") from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise InputError(f"{path}: expected an experiment in TOML, got: {error}") from error
    try:
        _check_names(Experiment, table, "")
        arms = table["arms"]
        if not isinstance(arms, dict) or not arms:
            raise InputError(f"experiment: expected at least one table [arms.NAME], got {arms!r}")
        for name, arm in arms.items():
            _check_arm(name, arm)
        return _resolve_paths(build_recipe(Experiment, table), path.parent)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('recipe: ')}") from error


def _resolve_paths(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with its paths relative to the folder of its file; URLs as they are."""

    def place(path: str) -> str:
        return path if is_url(path) else str(folder / path)

    def place_recipe(recipe: str) -> str:
        return place(recipe) if recipe.endswith(".toml") else recipe

    def place_arm(arm: Arm) -> Arm:
        return replace(
            arm,
            init=arm.init if arm.init in INITS else place(arm.init),
            pretrain=tuple(place(store) for store in arm.pretrain),
            recipe=place_recipe(arm.recipe),
            organ_stores={organ: place(store) for organ, store in arm.organ_stores.items()},
        )

    return replace(
        experiment,
        store=place(experiment.store),
        labels=place(experiment.labels),
        image_labels=(None if experiment.image_labels is None else place(experiment.image_labels)),
        out=place(experiment.out),
        split=None if experiment.split is None else place(experiment.split),
        recipe=place_recipe(experiment.recipe),
        arms={name: place_arm(arm) for name, arm in experiment.arms.items()},
    )


def _check_arm(name: str, arm: Any) -> None:
    """Raise InputError for an arm that is no table, has unknown names, or two origins."""
    if not isinstance(arm, dict):
        raise InputError(f"experiment: arms.{name}: expected a table, got {arm!r}")
    _check_names(Arm, arm, f"arms.{name}.")
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


def _check_names(cls: type, table: dict[str, Any], prefix: str) -> None:
    known = [f.name for f in fields(cls)]
    for name in table:
        if name not in known:
            raise InputError(
                f"experiment: no option {prefix}{name}; expected some of {', '.join(known)}"
            )
    for f in fields(cls):
        is_required = f.default is MISSING and f.default_factory is MISSING
        if is_required and f.name not in table:
            raise InputError(f"experiment: {prefix}{f.name}: expected a value, got nothing")
