"""Recipes of 3D-to-2D networks: all settings of a run, frozen and named.

voco project STORE --out RUN --recipe default   one GPU; the published network and optimiser
voco project STORE --out RUN --recipe tiny      2 CPU cores, minutes; a 2D network on projections
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from voco_data.errors import InputError
from voco_data.selection import Selection
from voco_models.data import ProjectionAugmentation
from voco_models.networks import PROJECTION_NETWORKS, PROJECTION_WIDTHS
from voco_models.stages import recipe_options
from voco_models.training import FitConfig, Sgd

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "bowel")
"""Those of the masks of RATIC."""
TARGETS = ("organs", "mean", "maximum", "depth", "image")


@dataclass(frozen=True, slots=True)
class ProjectionRecipe:
    """Network, target and training. Another value makes another experiment."""

    fit: FitConfig
    network: str = "fpn"
    """`fpn` (the paper's), `resensnet`, `lachinov`, `depth_max` or `unet_2d`; see
    docs/projection.md."""
    widths: tuple[int, ...] = PROJECTION_WIDTHS
    """Channels of the five levels."""
    target: Literal["organs", "mean", "maximum", "depth", "image"] = "organs"
    """What is predicted in both planes: the organs of the masks, or, without masks, the mean or the
    maximum of the volume along the collapsed axis, or where its matter lies along it, or a second
    image of the same body, which `--images` gives."""
    organs: tuple[str, ...] = ORGANS
    """Organs of the target `organs`, by their names in docs/masks.md."""
    masks: int | None = None
    """Patients whose masks are learnt from, or none for all. Smaller numbers are parts of larger
    ones; which patients they are depends on `fit.seed`."""
    batch_size: int = 8
    """Volumes per step."""
    augmentation: ProjectionAugmentation = field(default_factory=ProjectionAugmentation)
    """Random changes of the volumes in training, and of their maps."""
    window_hu: tuple[float, float] | None = None
    """Input window, low and high HU; none for all of the store's window."""
    shuffled: bool = False
    """Give each volume the image of another one: a control, for targets other than organs."""
    selection: Selection = field(default_factory=Selection)
    """Series of the stores that are learnt from."""

    def __post_init__(self) -> None:
        if self.network not in PROJECTION_NETWORKS:
            raise InputError(
                f"recipe: network must be one of {', '.join(PROJECTION_NETWORKS)}, got "
                f"{self.network!r}"
            )
        if self.target not in TARGETS:
            raise InputError(
                f"recipe: target must be {', '.join(TARGETS[:-1])} or {TARGETS[-1]}, got "
                f"{self.target!r}"
            )
        if not self.organs or len(set(self.organs)) < len(self.organs):
            raise InputError(
                f"recipe: organs must be one or more different names, got {list(self.organs)}"
            )
        if self.masks is not None and (self.masks < 1 or self.target != "organs"):
            raise InputError(
                "recipe: masks must be >= 1, and none for a target other than organs, got "
                f"{self.masks}"
            )
        if self.batch_size < 1 or (self.shuffled and self.batch_size < 2):
            raise InputError(
                f"recipe: batch_size must be >= 1, and >= 2 with shuffled, got {self.batch_size}"
            )
        if self.shuffled and self.target == "organs":
            raise InputError("recipe: shuffled is for targets other than organs")

    @property
    def channels(self) -> int:
        """Channels of a map."""
        return len(self.organs) if self.target == "organs" else 1


_PUBLISHED_FIT = FitConfig(
    total_steps=2_000,
    lr=0.1,
    weight_decay=1e-4,
    optimizer=Sgd(momentum=0.9),
    log_every=20,
    checkpoint_every=200,
)
_AUGMENTATION = ProjectionAugmentation(log_scale=0.15, shift=0.1, log_gamma=0.3, brightness=0.05)

PROJECTION_RECIPES = MappingProxyType(
    {
        # The paper's network, optimiser and batch. The paper trains for 40 epochs of its data.
        "default": ProjectionRecipe(fit=_PUBLISHED_FIT, augmentation=_AUGMENTATION),
        # 0.5 s a step on a core; a 3D network of these widths takes over 6 s. docs/projection.md
        # has the errors of its boxes.
        "tiny": ProjectionRecipe(
            fit=FitConfig(
                total_steps=300,
                lr=0.1,
                weight_decay=1e-4,
                warmup_steps=10,
                optimizer=Sgd(momentum=0.9),
                log_every=10,
                checkpoint_every=100,
            ),
            network="unet_2d",
            widths=(16, 32, 32, 64, 64),
            batch_size=4,
            augmentation=_AUGMENTATION,
        ),
    }
)


def projection_recipe(
    recipe: str | Path | ProjectionRecipe, changes: Sequence[str] = ()
) -> ProjectionRecipe:
    """The recipe of a name or of a `.toml` file, with `changes` of the form `name=value`.

    Raises InputError for an unknown recipe or option, and for a value that is not possible.
    """
    return recipe_options.resolve_recipe(ProjectionRecipe, PROJECTION_RECIPES, recipe, changes)
