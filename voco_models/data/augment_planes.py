"""Flips and rotations of whole volumes before crops are cut, batched on the device.

The target of a crop is the overlap of two boxes on the plane. A change of the whole volume, before
the boxes are cut, leaves every target exact. The same change of a single crop would not. A flip
along x makes left and right alike, by which a network can tell the liver from the spleen, so all
changes are off by default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.data.transfer import copy_to_device


@dataclass(frozen=True, slots=True)
class VolumeAugment:
    """Random changes of a volume before its crops are cut; 0 switches a change off."""

    flip_x: float = 0.0
    """Probability of a flip along x, before crops are cut. It makes left and right alike."""
    flip_y: float = 0.0
    """Probability of a flip along y, before crops are cut."""
    flip_z: float = 0.0
    """Probability of a flip of the order of the slices."""
    rotate_deg: float = 0.0
    """In-plane turn of all slices about the centre, uniform in +- this, before crops are cut."""

    def __post_init__(self) -> None:
        if any(not 0 <= chance <= 1 for chance in (self.flip_x, self.flip_y, self.flip_z)):
            raise InputError("volume_augment: flip_x, flip_y and flip_z must be from 0 to 1")
        if not 0 <= self.rotate_deg <= 180:
            raise InputError("volume_augment: rotate_deg must be from 0 to 180")

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed."""
        return not (self.flip_x or self.flip_y or self.flip_z or self.rotate_deg)

    def draw(self, count: int, generator: torch.Generator) -> VolumeDraws:
        """Random parameters of `count` volumes, from a CPU generator."""
        u = torch.rand(4, count, generator=generator)
        chances = torch.tensor([self.flip_z, self.flip_y, self.flip_x])
        return VolumeDraws(
            flips=tuple(map(tuple, (u[:3] < chances[:, None]).T.tolist())),
            angles_rad=(2 * u[3] - 1) * math.radians(self.rotate_deg) if self.rotate_deg else None,
        )


@dataclass(frozen=True, slots=True)
class VolumeDraws:
    """The drawn parameters of B volumes, on the CPU."""

    flips: tuple[tuple[bool, ...], ...]
    """Of each volume, whether to flip along z, y and x."""
    angles_rad: Tensor | None
    """float (B,): in-plane turn, from x towards y; None for none."""

    @staticmethod
    def join(parts: Sequence[VolumeDraws]) -> VolumeDraws:
        """The parameters of the volumes of all `parts`, which are of one `VolumeAugment`."""
        angles = [part.angles_rad for part in parts if part.angles_rad is not None]
        return VolumeDraws(
            flips=tuple(flips for part in parts for flips in part.flips),
            angles_rad=torch.cat(angles) if angles else None,
        )

    def apply(self, volumes: Tensor, *, outside: float) -> Tensor:
        """Changed copies of stored `volumes` (B, Z, Y, X): flipped, then turned.

        Flips keep the type. A turn interpolates linearly and gives float32; what comes from outside
        the slice is `outside`.
        """
        axes = [[axis for axis, flip in enumerate(flips) if flip] for flips in self.flips]
        if any(axes):
            pairs = zip(volumes, axes, strict=True)
            volumes = torch.stack([volume.flip(those) for volume, those in pairs])
        return volumes if self.angles_rad is None else _turn(volumes, self.angles_rad, outside)


def _turn(volumes: Tensor, angles_rad: Tensor, outside: float) -> Tensor:
    """Turn every slice of (B, Z, Y, X) about its centre, in pixels; float32."""
    Y, X = volumes.shape[-2:]
    cos, sin = torch.cos(angles_rad), torch.sin(angles_rad)
    zero = torch.zeros_like(cos)
    # The place in the source, in units of half a side, of each place in the result.
    rows = [torch.stack([cos, sin * Y / X, zero], 1), torch.stack([-sin * X / Y, cos, zero], 1)]
    theta = copy_to_device(torch.stack(rows, dim=1), volumes.device)
    grid = functional.affine_grid(theta, list(volumes.shape), align_corners=False)
    lifted = volumes.float() - outside  # so that the zeros outside become `outside`
    return functional.grid_sample(lifted, grid, align_corners=False) + outside
