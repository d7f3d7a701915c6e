"""Augmentation of volumes together with maps of them along an axis.

Every axis is scaled and shifted alone, so that a projection of the moved volume is the moved
projection. A rotation would mix the axes, and a flip would exchange left and right organs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.data.augment_volumes import X, Y, Z
from voco_models.data.transfer import copy_to_device


@dataclass(frozen=True, slots=True)
class ProjectionAugmentation:
    """Ranges of random changes of a volume and its maps; 0 switches a change off.

    Raises InputError for a range that is not possible.
    """

    log_scale: float = 0.0
    """Each axis is scaled by exp(u), u uniform in +- this."""
    shift: float = 0.0
    """Each axis is shifted, uniform in +- this fraction of its length; air comes in."""
    log_gamma: float = 0.0
    """Intensities in 0..1 are raised to exp(u), u uniform in +- this. Maps do not change."""
    brightness: float = 0.0
    """Intensities move by u, uniform in +- this (1.0 is the whole window). Maps do not change."""

    def __post_init__(self) -> None:
        for name in ("log_scale", "log_gamma", "brightness"):
            if not 0 <= getattr(self, name) < 10:
                raise InputError(
                    f"recipe: augmentation.{name} must be from 0 to below 10, got "
                    f"{getattr(self, name)}"
                )
        if not 0 <= self.shift < 1:
            raise InputError(
                f"recipe: augmentation.shift must be from 0 to below 1, got {self.shift}"
            )

    def draw(self, generators: Sequence[torch.Generator]) -> ProjectionDraws:
        """Random parameters of a volume for each CPU generator.

        The number of random numbers does not depend on the fields, so a change of one augmentation
        does not change the draws of the others.
        """
        u = torch.stack([2 * torch.rand(8, generator=generator) - 1 for generator in generators])
        return ProjectionDraws(
            scale=torch.exp(u[:, :3] * self.log_scale),
            shift=u[:, 3:6] * self.shift,
            gamma=torch.exp(u[:, 6] * self.log_gamma),
            brightness=u[:, 7] * self.brightness,
        )


@dataclass(frozen=True, slots=True)
class ProjectionDraws:
    """Drawn parameters of B volumes; tensors on the CPU."""

    scale: Tensor
    """(B, 3): factor of z, y and x."""
    shift: Tensor
    """(B, 3): shift of z, y and x as a fraction of the length."""
    gamma: Tensor
    """(B,)"""
    brightness: Tensor
    """(B,)"""

    def move_volumes(self, volumes: Tensor) -> Tensor:
        """Float volumes (B, Z, Y, X) in 0..1, moved and with other intensities."""
        moved = self._move(volumes[:, None], (Z, Y, X))[:, 0]
        intensity = torch.stack([self.gamma, self.brightness])
        gamma, brightness = copy_to_device(intensity, volumes.device)[..., None, None, None]
        changed: Tensor = (moved.clamp(0, 1) ** gamma + brightness).clamp(0, 1)
        return changed

    def move_maps(self, maps: Tensor, axes: tuple[int, int]) -> Tensor:
        """Float maps (B, C, U, V), whose last axes are the `axes` of the volume, moved alike."""
        return self._move(maps, axes)

    def move_labels(self, labels: Tensor) -> Tensor:
        """Float volumes (B, C, Z, Y, X) of labels, moved alike."""
        return self._move(labels, (Z, Y, X))

    def _move(self, images: Tensor, axes: Sequence[int]) -> Tensor:
        """Images (B, C, ...) by linear interpolation; 0 beyond the edges.

        A place p from -1 to 1 of the result shows the place (p - 2 shift) / scale of the image.
        """
        columns = [axis - 1 for axis in axes]
        scale, shift = self.scale[:, columns].flip(1), self.shift[:, columns].flip(1)  # x first
        matrix = torch.cat([torch.diag_embed(1 / scale), (-2 * shift / scale)[..., None]], dim=2)
        grid = functional.affine_grid(
            copy_to_device(matrix, images.device), list(images.shape), align_corners=False
        )
        moved: Tensor = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
        return moved
