"""The declaration of an experiment of 3D-to-2D networks: arms, numbers of masks and seeds.

It compares runs of `voco project` with the target `organs`. An arm says what comes before: nothing,
a run that learns a second image of the same body without masks (a pretext), or its controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from voco_data.errors import InputError
from voco_models.experiments.declared_values import (
    check_changes,
    check_different,
    check_fractions,
    check_reference,
    check_tables,
    place_path,
    place_recipe,
)
from voco_models.stages import ProjectionRecipe, build_recipe

ORGANS, IMAGE = "organs", "image"
"""The target of the runs that are compared, and that of second images in files."""
SEEDS = (0, 1, 2, 3, 4)
_SEEDS, _MASKS = "give seeds of the experiment", "give masks or mask_fractions of the experiment"
_OWN_OPTIONS = {
    "fit.seed": _SEEDS,
    "masks": _MASKS,
    "target": "give pretext of an arm",
    "shuffled": "give shuffled of an arm",
}
"""Options of recipes that an experiment sets, and what to give instead."""
_COMMON_OPTIONS = dict.fromkeys(
    ("organs", "selection"), "all arms have the same; give it in changes of the experiment"
)
"""Options that decide who is learnt from and scored."""
_PRETEXT_OPTIONS = dict.fromkeys(
    ("network", "widths", "organs"), "both runs of an arm have the same; give it in changes"
)


@dataclass(frozen=True, slots=True)
class ProjectionArm:
    """How the networks start, and how they are trained."""

    pretext: str | None = None
    """The target of a run that comes first and learns from all scans without masks, such as
    `maximum`; without it, the networks start with random weights."""
    pretext_changes: tuple[str, ...] = ()
    """Changes of the recipe of this run, after those of the experiment and of the arm."""
    images: str | None = None
    """The second images of the pretext `image`, as `voco project --images` takes them."""
    shuffled: bool = False
    """A control: the pretext gives every volume the image of another one."""
    steps_of: str | None = None
    """A control: an arm with a pretext. The networks learn the organs for as many steps as both
    runs of that arm take together."""
    changes: tuple[str, ...] = ()
    """Changes of the recipe in this arm, after those of the experiment."""


@dataclass(frozen=True, slots=True)
class ProjectionExperiment:
    """Arms x numbers of masks x seeds, on one store, one split, one recipe."""

    store: str
    """Store that the networks learn from and are tested on; see the spec `localise`."""
    arms: dict[str, ProjectionArm]
    """The arms by name."""
    reference: str
    """The arm that the others are compared with."""
    out: str = "."
    """Folder of the runs, the tables and the report."""
    split: str | None = None
    """File of `voco split`. Without it, `split.json` in `out` is made, once, of all patients."""
    recipe: str = "default"
    """Recipe of `voco project`: a name, or a `.toml` file."""
    changes: tuple[str, ...] = ()
    """Changes of this recipe, `name=value` each."""
    masks: tuple[int, ...] = ()
    """Patients whose masks are learnt from. Smaller numbers are parts of larger ones."""
    mask_fractions: tuple[float, ...] = ()
    """The same as fractions of the patients with masks outside the test set, rounded to at least
    one patient. Without both, all of them."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of all runs; they also choose the patients of a number of masks."""

    def __post_init__(self) -> None:
        check_reference(self.reference, self.arms)
        check_different("seeds", self.seeds)
        if self.masks and self.mask_fractions:
            raise InputError("experiment: give masks or mask_fractions, not both")
        if self.masks:
            check_different("masks", self.masks)
            if min(self.masks) < 1:
                raise InputError(f"experiment: masks must be >= 1, got {list(self.masks)}")
        if self.mask_fractions:
            check_different("mask_fractions", self.mask_fractions)
            check_fractions("mask_fractions", self.mask_fractions)
        check_changes("changes", self.changes, _OWN_OPTIONS)
        for name, arm in self.arms.items():
            _check_arm(name, arm, self.arms)

    def in_folder(self, folder: Path) -> ProjectionExperiment:
        """The experiment with its paths relative to `folder`; URLs as they are."""
        return replace(
            self,
            store=place_path(self.store, folder),
            out=place_path(self.out, folder),
            split=None if self.split is None else place_path(self.split, folder),
            recipe=place_recipe(self.recipe, folder),
            arms={
                name: arm if arm.images is None else replace(arm, images=str(folder / arm.images))
                for name, arm in self.arms.items()
            },
        )


def build_projection_experiment(table: Mapping[str, Any], folder: Path) -> ProjectionExperiment:
    """The experiment of the values of a file in `folder`.

    Raises InputError for what is missing or not possible.
    """
    check_tables(ProjectionExperiment, ProjectionArm, table)
    return build_recipe(ProjectionExperiment, table).in_folder(folder)


def _check_arm(name: str, arm: ProjectionArm, arms: Mapping[str, ProjectionArm]) -> None:
    place = f"arms.{name}"
    targets = get_args(get_type_hints(ProjectionRecipe)["target"])
    pretexts = [target for target in targets if target != ORGANS]
    if arm.pretext is not None and arm.pretext not in pretexts:
        raise InputError(
            f"experiment: {place}.pretext: expected {', '.join(pretexts)}, got {arm.pretext!r}"
        )
    if (arm.images is not None) != (arm.pretext == IMAGE):
        given = "no images" if arm.images is None else "images"
        raise InputError(
            f"experiment: {place}: the pretext {IMAGE}, and no other, needs images; got {given} "
            f"and the pretext {arm.pretext or 'none'}"
        )
    if arm.pretext is None and (arm.shuffled or arm.pretext_changes):
        option = "shuffled" if arm.shuffled else "pretext_changes"
        raise InputError(f"experiment: {place}.{option} has no effect without pretext; give both")
    if arm.steps_of is not None:
        with_pretext = [other for other, one in arms.items() if one.pretext is not None]
        if arm.pretext is not None:
            raise InputError(
                f"experiment: {place}: give pretext or steps_of, not both; steps_of is for an arm "
                "from random weights"
            )
        if arm.steps_of not in with_pretext:
            names = ", ".join(with_pretext) or "there is none"
            raise InputError(
                f"experiment: {place}.steps_of: expected an arm with a pretext ({names}), got "
                f"{arm.steps_of!r}"
            )
    own = _OWN_OPTIONS | _COMMON_OPTIONS
    if arm.steps_of is not None:
        own |= {"fit.total_steps": f"the arm has the steps of {arm.steps_of}"}
    check_changes(f"{place}.changes", arm.changes, own)
    check_changes(f"{place}.pretext_changes", arm.pretext_changes, _OWN_OPTIONS | _PRETEXT_OPTIONS)
