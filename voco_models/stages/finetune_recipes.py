"""Recipes of fine-tuning: all settings of a run, frozen and named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS, RSNA_TARGETS, TargetTable
from voco_data.selection import Selection
from voco_models.data import Augmentation, VolumeView, X, Y, Z
from voco_models.networks import (
    BILSTM,
    FINDINGS,
    ORGAN_QUERIES,
    TRANSFORMER,
    TRANSFORMER_HEADS,
    FeatureNorm,
    HeadOptions,
    Recompute,
    SlicePooling,
    SliceReduction,
    check_pooling,
    find_head,
)
from voco_models.objectives import check_pairs
from voco_models.recorded_options import WHEN_CHANGED, values_to_record
from voco_models.stages import recipe_options
from voco_models.training import AdamW, Optimizer

CLASS_WEIGHTS = (1.0, 2.0, 4.0)
"""Of healthy, low and high, as in the score."""


@dataclass(frozen=True, slots=True)
class FinetuneRecipe:
    """Settings of split, training and prediction. Another value makes another experiment."""

    name: str
    """Name of the recipe in reports; for a file, its stem."""
    backbone: str
    """A timm CNN. With `--init RUN` it must be the backbone of that run."""
    view: VolumeView
    """View of a stored volume that the classifier gets."""
    augmentation: Augmentation
    """Random changes of the volumes in training."""
    epochs: int
    """Passes over the training series."""
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """Weight decay of the optimiser."""
    batch_size: int
    """Series per step."""
    head: str = field(default=BILSTM, metadata=WHEN_CHANGED)
    """Head over the features of slices, a name of `voco_models.networks.HEADS`."""
    hidden: int = 128
    """Width of the head (of an LSTM or GRU, in each direction)."""
    layers: int = 1
    """Layers of the LSTM, GRU or transformer."""
    dropout: float = 0.0
    """Probability that a feature is dropped before the heads."""
    pooling: SlicePooling = "mean"
    """Feature maps of a slice to its vectors: the mean of the last map, its maximum in each
    quadrant, or a vector for each place of all `stages` from stride 4 on."""
    feature_norm: FeatureNorm = "none"
    """Normalisation of a slice's vectors before the head, and of the features of regions in
    `organ_queries`; `batch` helps with few data.
    """
    over_slices: SliceReduction = "max"
    """Of the head `bilstm`: slices to one vector, the maximum, or the maximum and the mean."""
    window_hu: tuple[float, float] | None = None
    """Input window, low and high HU; none for all of the store's window."""
    warmup_fraction: float = 0.0
    """Fraction of the steps in which the learning rate rises."""
    final_lr_fraction: float = 0.0
    """Learning rate at the last step, as a fraction of the peak."""
    clip_norm: float | None = None
    """Largest norm of the gradient, or no limit."""
    n_folds: int = 5
    """Folds of the cross-validation, as in the split; each trains a classifier."""
    flips: tuple[tuple[int, ...], ...] = ((),)
    """Test-time views: axes of (B, Z, Y, X) to flip; predictions are averaged."""
    patient: Literal["mean", "max"] = "mean"
    """A patient's prediction from its series: `mean`, or `max` (the series with most injury)."""
    calibrate: bool = False
    """Whether scores use the out-of-fold calibration. Both are always reported."""
    class_weights: tuple[float, float, float] = CLASS_WEIGHTS
    """Weights of healthy, low and high in the loss. Other groups have the weights of the score."""
    images_per_call: int | None = None
    """Slices per call of the backbone; none for all slices of a batch."""
    log_every: int = 10
    """Steps in a row of the history; its values are means over them."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of the split, if the run makes one, and of weights, order and all random draws."""
    optimizer: Optimizer = field(default_factory=AdamW, metadata=WHEN_CHANGED)
    """The optimiser and its options."""
    selection: Selection = field(default_factory=Selection, metadata=WHEN_CHANGED)
    """Series of the store that are trained and tested on."""
    attention_weight: float = field(default=0.0, metadata=WHEN_CHANGED)
    """Factor of the loss that draws the attention of `organ_queries` into the boxes of organs, in
    series that have masks."""
    groups: tuple[str, ...] = field(default=ORGAN_TARGETS.names, metadata=WHEN_CHANGED)
    """What is predicted: any of bowel, extravasation, kidney, liver and spleen."""
    label_fraction: float = field(default=1.0, metadata=WHEN_CHANGED)
    """Fraction of the patients outside the test set whose labels are used. The others are left
    out. Which they are depends on `seed`; smaller fractions are parts of larger ones."""
    steps: int | None = field(default=None, metadata=WHEN_CHANGED)
    """Steps of each fold, or none for `epochs` passes over its series."""
    recompute: Recompute = field(default="off", metadata=WHEN_CHANGED)
    """Activations to compute again in the backward pass, for less memory: those inside the
    `blocks` of the backbone, or of whole `calls`, of `images_per_call` slices each."""
    ema_decay: float = field(default=0.0, metadata=WHEN_CHANGED)
    """Decay per step of the moving average of the weights, which then predicts; 0 for none."""
    mixup_alpha: float = field(default=0.0, metadata=WHEN_CHANGED)
    """Mix pairs of series by shares from Beta(alpha, alpha), and their losses; 0 for none."""

    slice_weight: float = field(default=0.0, metadata=WHEN_CHANGED)
    """Factor of the loss of slices in `organ_queries`: whether each shows an injured bowel or a
    bleed, from labels of images and healthy patients. For the groups bowel and extravasation."""

    finding_share: float = field(default=0.0, metadata=WHEN_CHANGED)
    """Share of the series in training whose patients have an injured bowel or a bleed, if that is
    more than there are: they are then drawn more often. Set `calibrate`, which corrects for it."""

    amp_cpu: bool = field(default=False, metadata=WHEN_CHANGED)
    """Train in bf16 autocast on a CPU too, as on CUDA. It is faster where the processor computes in
    bf16 (AVX512-BF16 or AMX), and slower elsewhere. Predictions on a CPU stay in float32."""

    def __post_init__(self) -> None:
        at_least_one = ("epochs", "batch_size", "hidden", "layers", "log_every", "checkpoint_every")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise InputError(f"recipe: {name} must be >= 1, got {getattr(self, name)}")
        if self.n_folds < 2:
            raise InputError(f"recipe: n_folds must be >= 2, got {self.n_folds}")
        if self.images_per_call is not None and self.images_per_call < 1:
            raise InputError(
                f"recipe: images_per_call must be >= 1 or none, got {self.images_per_call}"
            )
        if not self.lr > 0 or self.weight_decay < 0:
            raise InputError(
                "recipe: lr must be > 0 and weight_decay >= 0, got "
                f"{self.lr} and {self.weight_decay}"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"recipe: clip_norm must be > 0 or none, got {self.clip_norm}")
        if self.patient not in ("mean", "max"):
            raise InputError(f"recipe: patient must be mean or max, got {self.patient!r}")
        if not self.flips or any(not set(axes) <= {Z, Y, X} for axes in self.flips):
            raise InputError(
                f"recipe: flips needs at least one view, each of axes {Z}, {Y} and {X} or none of "
                f"them, got {self.flips}"
            )
        for name in ("warmup_fraction", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"recipe: {name} must be in 0..1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"recipe: dropout must be from 0 to below 1, got {self.dropout}")
        if min(self.class_weights) <= 0:
            raise InputError(f"recipe: class_weights must be > 0, got {self.class_weights}")
        if not 0 < self.label_fraction <= 1:
            raise InputError(
                f"recipe: label_fraction must be above 0 and at most 1, got {self.label_fraction}"
            )
        if self.steps is not None and self.steps < 1:
            raise InputError(f"recipe: steps must be >= 1 or none, got {self.steps}")
        unknown = [name for name in self.groups if name not in RSNA_TARGETS]
        if unknown or not self.groups or len(set(self.groups)) < len(self.groups):
            raise InputError(
                f"recipe: groups must be different ones of {', '.join(RSNA_TARGETS.names)}, "
                f"got {', '.join(self.groups) or 'none'}"
            )
        if self.recompute == "calls" and self.images_per_call is None:
            raise InputError(
                "recipe: recompute = calls needs images_per_call, the slices of a call, got none; "
                "set it, such as images_per_call=32, or recompute to blocks"
            )
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"recipe: ema_decay must be from 0 to below 1, got {self.ema_decay}")
        self._check_head()
        self._check_mixup()

    @property
    def head_options(self) -> HeadOptions:
        """The fields that a head is built from."""
        return HeadOptions(
            hidden=self.hidden,
            layers=self.layers,
            dropout=self.dropout,
            over_slices=self.over_slices,
            norm=self.feature_norm,
        )

    @property
    def targets(self) -> TargetTable:
        """The groups that are predicted, in the order of the score, with its weights."""
        return RSNA_TARGETS.select(name for name in RSNA_TARGETS.names if name in self.groups)

    @property
    def findings(self) -> tuple[str, ...]:
        """The groups whose slices are labelled, in the order of the score."""
        return tuple(name for name in self.targets.names if name in FINDINGS)

    @property
    def loss_targets(self) -> TargetTable:
        """`targets` with the class weights of the loss."""
        return self.targets.with_grade_weights(self.class_weights)

    def _check_head(self) -> None:
        check_pooling(self.head, self.pooling)
        if self.attention_weight < 0 or (self.attention_weight and self.head != ORGAN_QUERIES):
            raise InputError(
                f"recipe: attention_weight must be >= 0, and 0 without the head {ORGAN_QUERIES}, "
                f"got {self.attention_weight}"
            )
        if self.slice_weight < 0 or (
            self.slice_weight and (self.head != ORGAN_QUERIES or not self.findings)
        ):
            raise InputError(
                f"recipe: slice_weight must be >= 0, and 0 without the head {ORGAN_QUERIES} and "
                f"one of the groups {' and '.join(FINDINGS)}, got {self.slice_weight}"
            )
        if not 0 <= self.finding_share < 1 or (self.finding_share and not self.findings):
            raise InputError(
                "recipe: finding_share must be from 0 to below 1, and 0 without one of the groups "
                f"{' and '.join(FINDINGS)}, got {self.finding_share}"
            )
        if self.head == TRANSFORMER and self.hidden % TRANSFORMER_HEADS:
            raise InputError(
                f"recipe: hidden of the head {TRANSFORMER} must be a multiple of "
                f"{TRANSFORMER_HEADS}, got {self.hidden}"
            )
        if self.head == ORGAN_QUERIES and self.feature_norm == "batch" and self.batch_size < 2:
            raise InputError(
                f"recipe: feature_norm = batch of the head {ORGAN_QUERIES} needs batch_size >= 2, "
                f"got {self.batch_size}; set feature_norm to none"
            )
        moved = self.augmentation
        turns = moved.flip_z or moved.flip_y or moved.flip_x or moved.rot90 or any(self.flips)
        if find_head(self.head).keeps_places and turns:
            raise InputError(
                f"recipe: the head {self.head} knows left from right; set flip_z, flip_y, flip_x "
                "and rot90 of augmentation to 0, and flips to [[]]"
            )

    def _check_mixup(self) -> None:
        if self.mixup_alpha < 0:
            raise InputError(f"recipe: mixup_alpha must be >= 0, got {self.mixup_alpha}")
        if not self.mixup_alpha:
            return
        check_pairs(self.batch_size)
        if find_head(self.head).needs_geometry:
            raise InputError(
                f"recipe: the head {self.head} knows where slices are in the body, and mixup adds "
                "slices of different places; set mixup_alpha to 0, or choose another head"
            )

    def to_json(self) -> dict[str, Any]:
        """The values that a run records, as plain values."""
        return values_to_record(self)


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

# voco demo: 180 made-up patients, some 3 minutes on 2 CPU cores. docs/demo.md has the scores.
TINY = FinetuneRecipe(
    name="tiny",
    backbone="test_byobnet",
    view=VolumeView(slices=20, size_px=64, reduce="average", z_range=(0.5, 1.0)),
    augmentation=Augmentation(
        log_gamma=0.2,
        brightness=0.05,
        rotate_deg=10.0,
        log_scale=0.1,
        shift=0.05,
        shift_z=0.08,
    ),
    epochs=30,
    lr=6e-3,
    weight_decay=0.01,
    batch_size=12,
    head=ORGAN_QUERIES,
    hidden=64,
    dropout=0.3,
    pooling="stages",
    feature_norm="batch",
    attention_weight=0.3,
    window_hu=(0.0, 200.0),
    warmup_fraction=0.1,
    clip_norm=1.0,
    n_folds=2,
    calibrate=True,
)

FINETUNE_RECIPES = {recipe.name: recipe for recipe in (DEFAULT, CODE, TINY)}


def finetune_recipe(
    recipe: str | Path | FinetuneRecipe, changes: Sequence[str] = ()
) -> FinetuneRecipe:
    """The recipe of a name or of a `.toml` file, with `changes` of the form `name=value`.

    Raises InputError for an unknown recipe or option, and for a value that is not possible.
    """
    return recipe_options.resolve_recipe(FinetuneRecipe, FINETUNE_RECIPES, recipe, changes)
