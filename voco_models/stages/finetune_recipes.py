"""Recipes of fine-tuning: every number of a run, frozen and named."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from voco_data.errors import InputError
from voco_models.data.augment3d import Augmentation, X, Y, Z
from voco_models.data.volume_view import VolumeView
from voco_models.networks.classifier import FeatureNorm, OverSlices, SlicePooling

CLASS_WEIGHTS = (1.0, 2.0, 4.0)
"""Of healthy, low and high, as in the score."""


@dataclass(frozen=True, slots=True)
class FinetuneRecipe:
    """How to split, train and predict. Changing any field makes another experiment."""

    name: str
    backbone: str
    """A timm CNN. With `--init RUN` it must be the backbone of that run."""
    view: VolumeView
    augmentation: Augmentation
    epochs: int
    lr: float
    """Peak learning rate of AdamW."""
    weight_decay: float
    batch_size: int
    """Series a step."""
    hidden: int = 128
    """Width of the LSTM in each direction."""
    layers: int = 1
    dropout: float = 0.0
    pooling: SlicePooling = "mean"
    feature_norm: FeatureNorm = "none"
    over_slices: OverSlices = "max"
    window_hu: tuple[float, float] | None = None
    """What the network sees, low and high; None for all of the store's window."""
    warmup_fraction: float = 0.0
    """Share of the steps with a rising learning rate."""
    final_lr_fraction: float = 0.0
    clip_norm: float | None = None
    n_folds: int = 5
    flips: tuple[tuple[int, ...], ...] = ((),)
    """Test-time views: axes of (B, Z, Y, X) to flip; predictions are averaged."""
    patient: str = "mean"
    """A patient's prediction from its series: `mean`, or `max` (the series with most injury)."""
    calibrate: bool = False
    """Whether scores use the out-of-fold calibration. Both are always reported."""
    class_weights: tuple[float, float, float] = CLASS_WEIGHTS
    images_per_call: int | None = None
    """Slices that the backbone sees at once; None for all of a batch."""
    log_every: int = 10
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.hidden, self.layers) < 1 or self.n_folds < 2:
            raise InputError(
                "recipe: epochs, batch_size, hidden and layers must be >= 1, n_folds >= 2"
            )
        if self.patient not in ("mean", "max"):
            raise InputError(f"recipe: patient must be mean or max, got {self.patient!r}")
        if not self.flips:
            raise InputError("recipe: flips needs at least one view, such as ()")
        if not 0 <= self.warmup_fraction <= 1 or not 0 <= self.dropout < 1:
            raise InputError("recipe: warmup_fraction must be in 0..1, dropout in 0..1 below 1")

    def to_json(self) -> dict[str, Any]:
        """Every field, as plain values."""
        return dataclasses.asdict(self)


_AUTHORS_AUGMENTATION = Augmentation(
    flip_z=0.5,
    flip_y=0.5,
    flip_x=0.5,
    rot90=0.5,
    log_gamma=0.3,
    cutout=0.5,
)
_FOUR_FLIPS: tuple[tuple[int, ...], ...] = ((), (Z,), (Y,), (X,))

# voco finetune STORE --labels train.csv --out RUN --init PRETRAINED
# Settings of the authors' code (the paper is silent) on the paper's (96, 256, 256) grid. One GPU
# with 80 GB, RATIC: hours. The paper's Table 1 has 0.41 to 0.38 for the RSNA score of this model.
DEFAULT = FinetuneRecipe(
    name="default",
    backbone="efficientnetv2_rw_t",
    view=VolumeView(slices=96, size_px=256, reduce="subsample"),
    augmentation=_AUTHORS_AUGMENTATION,
    epochs=20,
    lr=1.25e-4,
    weight_decay=1e-5,
    batch_size=4,
    final_lr_fraction=0.1,
    flips=_FOUR_FLIPS,
    log_every=50,
    checkpoint_every=500,
)

# voco finetune STORE --labels train.csv --out RUN --recipe code
# What the authors' code feeds: 48 of 96 slices, a 192 px window of 256. Fits 24 GB.
CODE = dataclasses.replace(
    DEFAULT, name="code", view=VolumeView(slices=48, size_px=192, reduce="subsample")
)

# voco demo: 180 made-up patients, under 2 minutes on 2 CPU cores. docs/demo.md has the scores.
TINY = FinetuneRecipe(
    name="tiny",
    backbone="test_byobnet",
    view=VolumeView(slices=24, size_px=64, reduce="average"),
    augmentation=Augmentation(
        log_gamma=0.2,
        brightness=0.05,
        rotate_deg=10.0,
        log_scale=0.1,
        shift=0.05,
        shift_z=0.08,
    ),
    epochs=14,
    lr=3e-3,
    weight_decay=0.01,
    batch_size=4,
    pooling="quadrants",
    feature_norm="batch",
    over_slices="max_mean",
    window_hu=(0.0, 200.0),
    warmup_fraction=0.1,
    clip_norm=1.0,
    n_folds=2,
    calibrate=True,
)

FINETUNE_RECIPES = {recipe.name: recipe for recipe in (DEFAULT, CODE, TINY)}


def finetune_recipe(recipe: str | FinetuneRecipe) -> FinetuneRecipe:
    """The recipe of a name. InputError for an unknown name."""
    if isinstance(recipe, FinetuneRecipe):
        return recipe
    if recipe not in FINETUNE_RECIPES:
        raise InputError(f"recipe: expected one of {', '.join(FINETUNE_RECIPES)}, got {recipe!r}")
    return FINETUNE_RECIPES[recipe]
