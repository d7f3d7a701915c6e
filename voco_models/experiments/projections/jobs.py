"""The runs of an experiment of 3D-to-2D networks, with their digests and folders.

OUT/runs/pretext-<digest>/    a run that learns a second image, for all numbers of masks of a seed
OUT/runs/project-<digest>/    a run that learns the organs, with its scores on the test patients
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from voco_data.errors import InputError
from voco_data.paired_images import hash_images
from voco_data.selection import read_split, update_split
from voco_data.store import Store
from voco_models.experiments.projections.declaration import (
    ORGANS,
    ProjectionArm,
    ProjectionExperiment,
)
from voco_models.experiments.run_folders import RUNS, SPLIT, describe_selection, hash_values
from voco_models.recorded_options import values_to_record
from voco_models.stages import (
    MaskedSeries,
    ProjectionRecipe,
    find_masked_series,
    projection_recipe,
)
from voco_models.training import describe_store


@dataclass(frozen=True, slots=True)
class ProjectionJob:
    """One run of `voco project`."""

    store: str
    recipe: ProjectionRecipe
    split: Path
    images: Path | None
    """Second images, for the target `image`."""
    pretext: ProjectionJob | None
    """The run that gives the first weights; None for random ones."""
    digest: str
    folder: Path

    @property
    def steps(self) -> int:
        """Steps of this run and of the one before it."""
        before = 0 if self.pretext is None else self.pretext.steps
        return before + self.recipe.fit.total_steps


@dataclass(frozen=True, slots=True, eq=False)
class ProjectionTrial:
    """A place in the tables, and the run that gives its scores. Equal if it is the same."""

    arm: str
    masks: int
    """Patients whose masks are learnt from."""
    seed: int
    job: ProjectionJob
    series: MaskedSeries
    """The series that all trials are tested on."""

    @property
    def name(self) -> str:
        """Arm, masks and seed, as messages have them."""
        return f"{self.arm}, masks of {self.masks} patients, seed {self.seed}"


def list_projection_trials(experiment: ProjectionExperiment) -> list[ProjectionTrial]:
    """All trials of an experiment, in the order in which they are trained.

    Seeds are the outermost loop: if an experiment is stopped, the finished seeds are complete.
    Makes the split if there is none yet. Raises InputError for parts that do not fit together.
    """
    planner = _Planner(experiment)
    return [
        planner.trial(name, arm, masks, seed)
        for seed in experiment.seeds
        for masks in planner.masks
        for name, arm in experiment.arms.items()
    ]


class _Planner:
    """Makes jobs, and keeps what they have in common."""

    def __init__(self, experiment: ProjectionExperiment) -> None:
        self._experiment = experiment
        self._images: dict[Path, str] = {}
        recipe = projection_recipe(experiment.recipe, experiment.changes)
        if recipe.target != ORGANS or recipe.masks is not None:
            raise InputError(
                f"experiment: recipe {experiment.recipe}: expected the target {ORGANS} and no "
                f"number of masks, got {recipe.target} and {recipe.masks}; arms have a pretext, "
                "and the experiment has masks"
            )
        store = Store.open(experiment.store)
        self._split_file = _find_split(experiment, store)
        split = read_split(self._split_file)
        self._series = find_masked_series(store, recipe, split)
        if not self._series.test_rows:
            raise InputError(
                f"experiment: none of the {len(split.test)} test patients of {self._split_file} "
                f"has a mask of {', '.join(recipe.organs)} in {store.storage}; give a split with "
                "some"
            )
        self.masks = _count_masks(experiment, len(self._series.learnt))
        self._common: dict[str, object] = {
            "store": describe_store(store),
            "split": split.digest,
        } | describe_selection(recipe.selection)

    def trial(self, name: str, arm: ProjectionArm, masks: int, seed: int) -> ProjectionTrial:
        """The run of one arm, number of masks and seed."""
        recipe = self._recipe(arm, seed)
        pretext = self._pretext(arm, seed)
        if arm.steps_of is not None:
            other = self._experiment.arms[arm.steps_of]
            steps = self._recipe(other, seed).fit.total_steps
            steps += self._pretext_recipe(other, seed).fit.total_steps
            recipe = replace(recipe, fit=replace(recipe.fit, total_steps=steps))
        recipe = replace(recipe, masks=masks)
        digest = hash_values(
            {
                "stage": "project",
                "recipe": values_to_record(recipe),
                **self._common,
                "init": "scratch" if pretext is None else pretext.digest,
                "scored": self._series.test_series,
            }
        )
        job = self._job("project", recipe, pretext, digest)
        return ProjectionTrial(name, masks, seed, job, self._series)

    def _pretext(self, arm: ProjectionArm, seed: int) -> ProjectionJob | None:
        """The run that comes first in an arm; the same for all numbers of masks."""
        if arm.pretext is None:
            return None
        recipe = self._pretext_recipe(arm, seed)
        images = None if arm.images is None else Path(arm.images)
        values = {"stage": "pretext", "recipe": values_to_record(recipe), **self._common}
        values |= describe_selection(recipe.selection) | self._describe_images(images)
        return self._job("pretext", recipe, None, hash_values(values), images)

    def _describe_images(self, images: Path | None) -> dict[str, object]:
        if images is None:
            return {}
        if images not in self._images:
            self._images[images] = hash_images(images)
        return {"images": self._images[images]}

    def _job(
        self,
        kind: Literal["pretext", "project"],
        recipe: ProjectionRecipe,
        pretext: ProjectionJob | None,
        digest: str,
        images: Path | None = None,
    ) -> ProjectionJob:
        return ProjectionJob(
            store=self._experiment.store,
            recipe=recipe,
            split=self._split_file,
            images=images,
            pretext=pretext,
            digest=digest,
            folder=Path(self._experiment.out) / RUNS / f"{kind}-{digest}",
        )

    def _recipe(self, arm: ProjectionArm, seed: int) -> ProjectionRecipe:
        """The recipe of the organs, with all masks."""
        changes = (*self._experiment.changes, *arm.changes)
        recipe = projection_recipe(self._experiment.recipe, changes)
        return replace(recipe, fit=replace(recipe.fit, seed=seed))

    def _pretext_recipe(self, arm: ProjectionArm, seed: int) -> ProjectionRecipe:
        changes = (*self._experiment.changes, *arm.changes, f"target={arm.pretext}")
        shuffled = ("shuffled=true",) if arm.shuffled else ()
        recipe = projection_recipe(
            self._experiment.recipe, (*changes, *shuffled, *arm.pretext_changes)
        )
        return replace(recipe, fit=replace(recipe.fit, seed=seed))


def _find_split(experiment: ProjectionExperiment, store: Store) -> Path:
    """The split file of the experiment. Without one, a new one is made in its folder, once."""
    if experiment.split is not None:
        return Path(experiment.split)
    file = Path(experiment.out) / SPLIT
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        update_split(store, file)
    return file


def _count_masks(experiment: ProjectionExperiment, available: int) -> Sequence[int]:
    """The numbers of patients whose masks are learnt from.

    Raises InputError if there are too few, or if two fractions are the same number.
    """
    if available == 0 or any(masks > available for masks in experiment.masks):
        raise InputError(
            f"experiment: masks: expected at most {available}, the patients with masks outside "
            f"the test set, got {max(experiment.masks, default='all')}"
        )
    if experiment.masks:
        return experiment.masks
    fractions = experiment.mask_fractions or (1.0,)
    masks = [max(1, round(fraction * available)) for fraction in fractions]
    if len(set(masks)) < len(masks):
        raise InputError(
            f"experiment: mask_fractions: expected different numbers of the {available} patients "
            f"with masks, got {masks}"
        )
    return masks
