"""Augmentation of whole volumes on the device.

`Augmentation.draw` draws the parameters, and `apply_draws` applies them without further randomness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.data.transfer import copy_to_device

Z, Y, X = 1, 2, 3
"""Axes of a batch of volumes (B, Z, Y, X)."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Probabilities and ranges of random changes; 0 switches a change off.

    Raises InputError for a probability or fraction outside 0..1.
    """

    flip_z: float = 0.0
    """Probability of a flip along z."""
    flip_y: float = 0.0
    """Probability of a flip along y."""
    flip_x: float = 0.0
    """Probability of a flip along x."""
    rot90: float = 0.0
    """Probability of an in-plane turn by 90, 180 or 270 degrees (square slices only)."""
    log_gamma: float = 0.0
    """Intensities in 0..1 are raised to exp(u), u uniform in +- this."""
    brightness: float = 0.0
    """Intensities move by u, uniform in +- this (1.0 is the whole window)."""
    cutout: float = 0.0
    """Probability of a box set to the lowest intensity."""
    cutout_fraction: float = 0.25
    """Sides of the box as a fraction of the volume's."""
    rotate_deg: float = 0.0
    """In-plane turn about the centre, uniform in +- this; all slices alike."""
    log_scale: float = 0.0
    """In-plane zoom by exp(u), u uniform in +- this."""
    shift: float = 0.0
    """In-plane shift, uniform in +- this fraction of the size, along y and x."""
    shift_z: float = 0.0
    """Shift along z, uniform in +- this fraction of the slices; end slices repeat."""

    def __post_init__(self) -> None:
        chances = (self.flip_z, self.flip_y, self.flip_x, self.rot90, self.cutout)
        if any(not 0 <= chance <= 1 for chance in (*chances, self.cutout_fraction)):
            raise InputError("recipe: probabilities of an augmentation must be from 0 to 1")

    @property
    def resamples(self) -> bool:
        """Whether slices are interpolated."""
        return bool(self.rotate_deg or self.log_scale or self.shift)

    def draw(self, count: int, generator: torch.Generator) -> AugmentationDraws:
        """Random parameters for `count` volumes, from a CPU generator.

        The number of random numbers does not depend on the fields, so a change of one augmentation
        does not change the draws of the others.
        """

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator)

        def symmetric(*shape: int) -> Tensor:
            return 2 * uniform(*shape) - 1

        chance = torch.tensor([self.flip_z, self.flip_y, self.flip_x])
        return AugmentationDraws(
            flips=uniform(3) < chance,
            quarter_turns=(uniform() < self.rot90) * (1 + (3 * uniform()).long()),
            gamma=torch.exp(symmetric() * self.log_gamma),
            brightness=symmetric() * self.brightness,
            cutout=uniform() < self.cutout,
            cutout_corner=uniform(3) * (1 - self.cutout_fraction),
            cutout_fraction=self.cutout_fraction,
            angle_rad=symmetric() * math.radians(self.rotate_deg),
            zoom=torch.exp(symmetric() * self.log_scale),
            shift=symmetric(2) * self.shift,
            shift_z=symmetric() * self.shift_z,
            resamples=self.resamples,
        )


@dataclass(frozen=True, slots=True)
class AugmentationDraws:
    """Drawn parameters of B volumes; tensors on the CPU with leading axis B."""

    flips: Tensor
    quarter_turns: Tensor
    gamma: Tensor
    brightness: Tensor
    cutout: Tensor
    cutout_corner: Tensor
    cutout_fraction: float
    angle_rad: Tensor
    zoom: Tensor
    shift: Tensor
    shift_z: Tensor
    resamples: bool

    @staticmethod
    def join(parts: Sequence[AugmentationDraws]) -> AugmentationDraws:
        """The parameters of the volumes of all `parts`, which are of one `Augmentation`."""
        joined: dict[str, Any] = {
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(AugmentationDraws)
            if isinstance(getattr(parts[0], field.name), Tensor)
        }
        return replace(parts[0], **joined)


def apply_draws(volumes: Tensor, draws: AugmentationDraws) -> Tensor:
    """Augmented copies of float volumes (B, Z, Y, X) with values in 0..1."""
    volumes = move_voxels(volumes, draws)
    device = volumes.device
    intensity = copy_to_device(torch.stack([draws.gamma, draws.brightness]), device)
    gamma, brightness = intensity[..., None, None, None]
    volumes = (volumes.clamp(0, 1) ** gamma + brightness).clamp(0, 1)
    for i in draws.cutout.nonzero().flatten().tolist():
        volumes[i][
            _cutout_box(volumes.shape[1:], draws.cutout_corner[i], draws.cutout_fraction)
        ] = 0
    return volumes


def move_voxels(volumes: Tensor, draws: AugmentationDraws) -> Tensor:
    """The part of `apply_draws` that moves voxels, of float volumes (B, Z, Y, X) of any size."""
    volumes = torch.stack([_rearrange(v, draws, i) for i, v in enumerate(volumes)])
    return _warp(volumes, draws) if draws.resamples else volumes


def move_slices(values: Tensor, draws: AugmentationDraws) -> Tensor:
    """Values of slices (B, F, Z), moved and turned along z as `move_voxels` moves their voxels."""
    return torch.stack([_rearrange_slices(v, draws, i) for i, v in enumerate(values)])


def _rearrange_slices(values: Tensor, draws: AugmentationDraws, i: int) -> Tensor:
    """One volume's values (F, Z)."""
    offset = round(float(draws.shift_z[i]) * values.shape[1])
    if offset:
        sources = torch.arange(values.shape[1], device=values.device) - offset
        values = values[:, sources.clamp(0, values.shape[1] - 1)]
    return values.flip(1) if bool(draws.flips[i][0]) else values


def _rearrange(volume: Tensor, draws: AugmentationDraws, i: int) -> Tensor:
    """Shift one volume (Z, Y, X) along z, flip it, and turn it by quarter turns."""
    offset = round(float(draws.shift_z[i]) * len(volume))
    if offset:
        sources = torch.arange(len(volume), device=volume.device) - offset
        volume = volume[sources.clamp(0, len(volume) - 1)]
    axes = draws.flips[i].nonzero().flatten().tolist()
    volume = volume.flip(axes) if axes else volume
    turns = int(draws.quarter_turns[i])
    return torch.rot90(volume, turns, (1, 2)) if turns else volume


def _warp(volumes: Tensor, draws: AugmentationDraws) -> Tensor:
    """Apply one in-plane affine map per volume to all its slices; zero outside the volume."""
    cos, sin = torch.cos(draws.angle_rad) / draws.zoom, torch.sin(draws.angle_rad) / draws.zoom
    dy, dx = 2 * draws.shift[:, 0], 2 * draws.shift[:, 1]
    rows = [torch.stack([cos, -sin, dx], dim=1), torch.stack([sin, cos, dy], dim=1)]
    theta = copy_to_device(torch.stack(rows, dim=1), volumes.device).to(volumes.dtype)
    grid = functional.affine_grid(theta, list(volumes.shape), align_corners=False)
    return functional.grid_sample(volumes, grid, align_corners=False)


def _cutout_box(shape: torch.Size, corner: Tensor, fraction: float) -> tuple[slice, ...]:
    """Index of a box in a volume of `shape`, from its corner as fractions of the sides."""
    starts = [round(float(c) * n) for c, n in zip(corner, shape, strict=True)]
    sizes = [max(1, round(fraction * n)) for n in shape]
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
