"""The runs of an experiment of classifiers, with their digests and folders; see `run_folders`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS
from voco_data.selection import read_split, update_split
from voco_data.store import Store
from voco_models.experiments.declaration import INITS, Arm, Experiment
from voco_models.experiments.run_folders import RUNS, SPLIT, describe_selection, hash_values
from voco_models.recorded_options import values_to_record
from voco_models.stages import (
    FinetuneRecipe,
    PretrainRecipe,
    count_finetune_steps,
    finetune_recipe,
    pretrain_recipe,
)
from voco_models.training import checkpoint, describe_store, hash_file, to_plain


@dataclass(frozen=True, slots=True)
class PretrainJob:
    """One pretraining run."""

    stores: tuple[str, ...]
    recipe: PretrainRecipe
    split: Path
    digest: str
    folder: Path


@dataclass(frozen=True, slots=True)
class FinetuneJob:
    """One fine-tuning run."""

    store: str
    labels: Path
    image_labels: Path | None
    organ_boxes: Path | None
    recipe: FinetuneRecipe
    init: str
    """`scratch`, `imagenet`, a file, or the folder of a run."""
    pretraining: PretrainJob | None
    """The run of `init`, if it belongs to the experiment."""
    split: Path
    allow_unlabelled: bool
    digest: str
    folder: Path


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A place in the tables, and the runs that give its predictions. Equal if it is the same."""

    arm: str
    backbone: str
    label_fraction: float
    seed: int
    jobs: tuple[FinetuneJob, ...]
    """One for all organs, or one for each organ of a single-organ arm."""

    @property
    def name(self) -> str:
        """Arm, backbone, fraction and seed, as messages have them."""
        share = f"{100 * self.label_fraction:g} % of the labels"
        return f"{self.arm}, {self.backbone}, {share}, seed {self.seed}"

    @property
    def digests(self) -> str:
        """The digests of its runs."""
        return " ".join(job.digest for job in self.jobs)


def list_trials(
    experiment: Experiment, pseudonymise: Callable[[str], str] | None = None
) -> list[Trial]:
    """All trials of an experiment, in the order in which they are trained.

    Seeds are the outermost loop: if an experiment is stopped, the finished seeds are complete.
    Makes the split if there is none yet. `pseudonymise` is a function from patient ids of the
    labels to those of the store. Raises InputError for parts that do not fit together.
    """
    planner = _Planner(experiment, pseudonymise)
    return [
        planner.trial(name, arm, backbone, seed, fraction)
        for seed in experiment.seeds
        for backbone in planner.backbones
        for name, arm in experiment.arms.items()
        for fraction in experiment.label_fractions
    ]


class _Planner:
    """Makes jobs, and keeps what several of them need."""

    def __init__(self, experiment: Experiment, pseudonymise: Callable[[str], str] | None) -> None:
        self._experiment = experiment
        self._pseudonymise = pseudonymise
        self._out = Path(experiment.out)
        self._stores: dict[str, Store] = {}
        recipe = finetune_recipe(experiment.recipe, experiment.changes)
        self.backbones = experiment.backbones or (recipe.backbone,)
        self._split_file = _find_split(experiment, recipe, pseudonymise)
        self._split = read_split(self._split_file)
        self._image_labels = (
            None if experiment.image_labels is None else Path(experiment.image_labels)
        )
        self._labels_digests = {"labels": hash_file(Path(experiment.labels))}
        if self._image_labels is not None:
            self._labels_digests["image_labels"] = hash_file(self._image_labels)
        self._steps: dict[str, int] = {}

    def trial(self, name: str, arm: Arm, backbone: str, seed: int, fraction: float) -> Trial:
        """The runs of one arm, backbone, seed and fraction."""
        pretraining = self._pretrain_job(arm, backbone, seed) if arm.pretrain else None
        recipe = self._recipe(arm, backbone, seed, fraction)
        if arm.organ_stores:
            jobs = [
                self._finetune_job(arm, replace(recipe, groups=(organ,)), store, pretraining)
                for organ, store in arm.organ_stores.items()
            ]
        else:
            if missing := set(ORGAN_TARGETS.names) - set(recipe.groups):
                raise InputError(
                    f"experiment: arm {name}: the scores need {', '.join(ORGAN_TARGETS.names)} "
                    f"among the groups of the recipe, and {', '.join(sorted(missing))} is not there"
                )
            jobs = [self._finetune_job(arm, recipe, self._experiment.store, pretraining)]
        return Trial(name, backbone, fraction, seed, tuple(jobs))

    def _finetune_job(
        self, arm: Arm, recipe: FinetuneRecipe, store: str, pretraining: PretrainJob | None
    ) -> FinetuneJob:
        init = arm.init if pretraining is None else str(pretraining.folder)
        boxes = None if arm.organ_boxes is None else Path(arm.organ_boxes)
        digest = hash_values(
            {
                "stage": "finetune",
                "recipe": values_to_record(recipe),
                "store": describe_store(self._open(store)),
                **self._labels_digests,
                "split": self._split.digest,
                "init": _describe_init(init) if pretraining is None else pretraining.digest,
            }
            | ({} if boxes is None else {"organ_boxes": hash_file(boxes)})
            | describe_selection(recipe.selection)
        )
        return FinetuneJob(
            store=store,
            labels=Path(self._experiment.labels),
            image_labels=self._image_labels,
            organ_boxes=boxes,
            recipe=recipe,
            init=init,
            pretraining=pretraining,
            split=self._split_file,
            allow_unlabelled=self._experiment.allow_unlabelled,
            digest=digest,
            folder=self._out / RUNS / f"finetune-{digest}",
        )

    def _recipe(self, arm: Arm, backbone: str, seed: int, fraction: float) -> FinetuneRecipe:
        """The fine-tuning recipe of a job. All fractions train for the steps of all labels."""
        changes = (*self._experiment.changes, *arm.finetune_changes)
        recipe = replace(
            finetune_recipe(self._experiment.recipe, changes),
            name=Path(self._experiment.recipe).stem,
            backbone=backbone,
            seed=seed,
            label_fraction=1.0,
        )
        if fraction == 1:
            return recipe
        steps = recipe.steps or self._count_steps(recipe)
        return replace(recipe, label_fraction=fraction, steps=steps)

    def _count_steps(self, recipe: FinetuneRecipe) -> int:
        """The most steps of any fold, with all labels."""
        key = json.dumps(to_plain(values_to_record(replace(recipe, seed=0))), sort_keys=True)
        if key not in self._steps:
            self._steps[key] = count_finetune_steps(
                self._open(self._experiment.store),
                Path(self._experiment.labels),
                recipe,
                self._split,
                allow_unlabelled=self._experiment.allow_unlabelled,
                pseudonymise=self._pseudonymise,
            )
        return self._steps[key]

    def _pretrain_job(self, arm: Arm, backbone: str, seed: int) -> PretrainJob:
        """The pretraining of an arm. It leaves out the test patients of the split."""
        recipe = pretrain_recipe(arm.recipe, arm.changes)
        recipe = replace(recipe, backbone=backbone, fit=replace(recipe.fit, seed=seed))
        digest = hash_values(
            {
                "stage": "pretrain",
                "recipe": values_to_record(recipe),
                "stores": [describe_store(self._open(store)) for store in arm.pretrain],
                "split": self._split.digest,
            }
            | describe_selection(recipe.selection)
        )
        return PretrainJob(
            stores=arm.pretrain,
            recipe=recipe,
            split=self._split_file,
            digest=digest,
            folder=self._out / RUNS / f"pretrain-{digest}",
        )

    def _open(self, store: str) -> Store:
        if store not in self._stores:
            self._stores[store] = Store.open(store)
        return self._stores[store]


def _find_split(
    experiment: Experiment, recipe: FinetuneRecipe, pseudonymise: Callable[[str], str] | None
) -> Path:
    """The split file of the experiment. Without one, a new one is made in its folder, once."""
    if experiment.split is not None:
        return Path(experiment.split)
    file = Path(experiment.out) / SPLIT
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        update_split(
            experiment.store,
            file,
            experiment.labels,
            n_folds=recipe.n_folds,
            pseudonymise=pseudonymise,
        )
    return file


def _describe_init(init: str) -> str:
    """What first weights are, whatever the name of their file."""
    if init in INITS:
        return init
    path = Path(init)
    return hash_file(path / checkpoint.BACKBONE if path.is_dir() else path)
