"""All random choices of a step of 2D-VoCo, made on the CPU before a voxel is looked at.

Each volume has a generator of its own, seeded with the step and the item. So a volume gets the same
crops at any place in a batch, and in any process of a training on several devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from voco_models.data import (
    IntensityAugment,
    IntensityParameters,
    VolumeAugment,
    VolumeDraws,
    step_seed,
)
from voco_models.objectives.crops import Boxes, CropPlan

_CROPS, _INTENSITY, _VOLUME, _NOISE = range(4)
"""Streams of a volume. An augmentation that is switched on does not change the crops."""


@dataclass(frozen=True, slots=True)
class StepDraws:
    """The random choices of B volumes, on the CPU."""

    random: Boxes
    """Random crops, corners (B, n, 2)."""
    first_slices: tuple[int, int]
    """First slice that random crops show, and first one of base crops; alike for all volumes."""
    intensity: IntensityParameters | None
    """(B, n + m), random crops first; None without changes of intensity."""
    noise_seeds: tuple[int, ...]
    """Seed of the white noise of each volume."""
    volumes: VolumeDraws | None
    """Changes of whole volumes; None without."""


@dataclass(frozen=True, slots=True)
class StepChoices:
    """What may be drawn."""

    plan: CropPlan
    slice_stride: int
    separate_slices: bool
    intensity: IntensityAugment
    volumes: VolumeAugment

    def draw(self, n_slices: int, step: int, numbers: Sequence[int]) -> StepDraws:
        """The choices for volumes of `n_slices` slices: `step` is the seed of the batch.

        `numbers` tell the B volumes apart; see `Batch.draw_keys`.
        """
        stride = min(self.slice_stride, n_slices)
        of_step = torch.Generator().manual_seed(step)
        first, other = torch.randint(stride, (2,), generator=of_step).tolist()
        boxes = [self.plan.draw_boxes(1, _generator(step, n, _CROPS)).corners for n in numbers]
        intensity = volumes = None
        if not self.intensity.is_identity:
            shape = (self.plan.n_random + self.plan.grid**2,)
            intensity = IntensityParameters.stack(
                [self.intensity.draw(shape, _generator(step, n, _INTENSITY)) for n in numbers]
            )
        if not self.volumes.is_identity:
            volumes = VolumeDraws.join(
                [self.volumes.draw(1, _generator(step, n, _VOLUME)) for n in numbers]
            )
        return StepDraws(
            random=Boxes(torch.cat(boxes), self.plan.size),
            first_slices=(first, other if self.separate_slices else first),
            intensity=intensity,
            noise_seeds=tuple(step_seed(step, n, _NOISE) for n in numbers),
            volumes=volumes,
        )


def _generator(step: int, item: int, stream: int) -> torch.Generator:
    """A CPU generator for one stream of one volume in one step."""
    return torch.Generator().manual_seed(step_seed(step, item, stream))
