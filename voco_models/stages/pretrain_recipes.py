"""Recipes of pretraining: all settings of a run, frozen and named.

voco pretrain STORE --out RUN --recipe default    one GPU; no score of ours measured yet
                                       default_s  the same with EfficientNetV2-S
                                       grid4      4 x 4 crops; grid4_s: with EfficientNetV2-S
                                       authors    the authors' code, with its faults
voco pretrain STORE --out RUN --recipe small      one CPU core, 20 minutes; scores: docs/learning.md
voco pretrain STORE --out RUN --recipe tiny       2 CPU cores, under a minute; for the demo
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from voco_data.errors import InputError
from voco_data.selection import Selection
from voco_models.data import IntensityAugment
from voco_models.networks import DEFAULT_BACKBONE, LARGER_BACKBONE, LITE0, TINY_BACKBONE
from voco_models.objectives import LossOptions, Voco2dConfig
from voco_models.recorded_options import WHEN_CHANGED
from voco_models.stages import recipe_options
from voco_models.training import FitConfig


@dataclass(frozen=True, slots=True)
class PretrainRecipe:
    """Network, method and training. Another value makes another experiment."""

    fit: FitConfig
    backbone: str = DEFAULT_BACKBONE
    """Any timm CNN, or a 3D network, `monai:MODEL`; see docs/method.md."""
    voco: Voco2dConfig = field(default_factory=Voco2dConfig)
    batch_size: int = 4
    """Volumes per step."""
    compile: bool = True
    """Compile the backbones, on CUDA only."""
    selection: Selection = field(default_factory=Selection, metadata=WHEN_CHANGED)
    """Series of the stores that are learnt from."""
    shuffle: bool = field(default=True, metadata=WHEN_CHANGED)
    """Shuffle the volumes in each epoch, so that partners of the inter-volume loss change."""
    recompute: bool = field(default=False, metadata=WHEN_CHANGED)
    """Compute the activations of the student's backbone again in the backward pass: less memory."""

    probe_every: int = field(default=0, metadata=WHEN_CHANGED)
    """Steps between two probes of the pretext on held-out patients; 0 holds out nobody."""
    probe_fraction: float = field(default=0.1, metadata=WHEN_CHANGED)
    """Fraction of the patients that is not trained on, if `probe_every` is not 0."""
    compile_cpu: bool = field(default=False, metadata=WHEN_CHANGED)
    """Compile the backbones on the CPU too. This needs a C++ compiler, and minutes before the first
    step; losses then have other rounding errors."""

    def __post_init__(self) -> None:
        if self.probe_every < 0 or not 0 < self.probe_fraction < 1:
            raise InputError(
                "recipe: probe_every must be >= 0 and probe_fraction between 0 and 1, got "
                f"{self.probe_every} and {self.probe_fraction}"
            )
        if self.selection.weights and not self.shuffle:
            raise InputError("recipe: selection.weights need shuffle = true")
        if self.batch_size < 2 and self.voco.loss.inter != "off":
            raise InputError(
                "recipe: the inter-volume loss needs batch_size >= 2, or inter off, got "
                f"{self.batch_size}"
            )
        if self.batch_size < 1:
            raise InputError(f"recipe: batch_size must be >= 1, got {self.batch_size}")

    def compiles_on(self, device: torch.device) -> bool:
        """Whether the backbones are compiled for training on `device`."""
        return self.compile if device.type == "cuda" else self.compile_cpu


_AUTHORS_FIT = FitConfig(
    total_steps=250_000,
    warmup_steps=5_000,
    lr=1e-4,
    weight_decay=0.01,
    amsgrad=True,
    log_every=50,
    checkpoint_every=1_000,
)
_GRID_4 = Voco2dConfig(grid=4, encode_px=64)
"""4 x 4 base crops, resized to 64 px: 96 px crops of 384 px slices, or 48 px crops of 192 px."""

PRETRAIN_RECIPES = MappingProxyType(
    {
        # The paper's network and the authors' training settings.
        "default": PretrainRecipe(fit=_AUTHORS_FIT),
        # The same method with smaller sizes, and 4 of the 32 slices per step. The momentum of the
        # teacher is lower, because there are few steps.
        "tiny": PretrainRecipe(
            fit=FitConfig(
                total_steps=100,
                warmup_steps=10,
                lr=1e-3,
                weight_decay=0.01,
                amsgrad=True,
                log_every=5,
                checkpoint_every=50,
            ),
            backbone=TINY_BACKBONE,
            voco=Voco2dConfig(
                projector_width=256, embedding=128, slice_stride=8, momentum=0.5, momentum_end=0.5
            ),
        ),
        # A deep network on one CPU core, with the options against matching pixels (docs/method.md).
        "small": PretrainRecipe(
            fit=FitConfig(
                total_steps=2_000,
                warmup_steps=50,
                lr=2e-3,
                weight_decay=0.01,
                amsgrad=True,
                log_every=25,
                checkpoint_every=250,
            ),
            backbone=LITE0,
            voco=Voco2dConfig(
                n_random=6,
                projector_width=256,
                embedding=128,
                momentum=0.5,
                momentum_end=0.5,
                slice_stride=16,
                slices="separate",
                student_crops="random",
                loss=LossOptions(inter="all_pairs", inter_target="overlap", reg="off"),
                augment=IntensityAugment(gamma=0.3, contrast=0.3, brightness=0.2, noise=0.1),
            ),
        ),
        # The paper's larger network, and the finer grid of the authors' first version.
        "default_s": PretrainRecipe(fit=_AUTHORS_FIT, backbone=LARGER_BACKBONE),
        "grid4": PretrainRecipe(fit=_AUTHORS_FIT, voco=_GRID_4),
        "grid4_s": PretrainRecipe(fit=_AUTHORS_FIT, voco=_GRID_4, backbone=LARGER_BACKBONE),
        # What the authors' code does, for comparison; docs/method.md has the table.
        "authors": PretrainRecipe(
            fit=_AUTHORS_FIT,
            backbone="efficientnet_b0",
            voco=Voco2dConfig(teacher="legacy", loss=LossOptions(legacy_clamp=True)),
            shuffle=False,
        ),
    }
)


def pretrain_recipe(
    recipe: str | Path | PretrainRecipe, changes: Sequence[str] = ()
) -> PretrainRecipe:
    """The recipe of a name or of a `.toml` file, with `changes` of the form `name=value`.

    Raises InputError for an unknown recipe or option, and for a value that is not possible.
    """
    return recipe_options.resolve_recipe(PretrainRecipe, PRETRAIN_RECIPES, recipe, changes)
