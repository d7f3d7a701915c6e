"""The view of a stored volume that the classifier gets: fewer slices, fewer pixels.

`average` shrinks by area averaging. It is deterministic, so reduced volumes can be kept in memory.
`subsample` takes every k-th slice and a square window of the plane: a random window in training,
the middle one otherwise. The authors' code takes 48 of 96 slices and 192 of 256 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError


@dataclass(frozen=True, slots=True)
class VolumeView:
    """Shape of the classifier's input, and the way in which a volume is reduced to it."""

    slices: int
    """Slices of the classifier's input."""
    size_px: int
    """Rows and columns of a slice of the input."""
    reduce: Literal["average", "subsample"]
    """Area average of the volume, or every k-th slice and a window of the plane."""

    def __post_init__(self) -> None:
        if self.slices < 1 or self.size_px < 1:
            raise InputError("recipe: slices and size_px must be at least 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) of the input."""
        return (self.slices, self.size_px, self.size_px)

    def check_grid(self, grid: tuple[int, int, int]) -> None:
        """InputError if volumes of `grid` (Z, Y, X) are too small for this view."""
        if any(stored < viewed for stored, viewed in zip(grid, self.shape, strict=True)):
            raise InputError(
                f"the recipe looks at {self.shape} voxels, the store's grid {grid} has fewer; "
                "use a store of the finetune spec, or another recipe"
            )

    def make_middle_view(self, volumes: Tensor) -> Tensor:
        """The deterministic view of volumes (B, Z, Y, X): (B, *`shape`), of the same dtype."""
        if tuple(volumes.shape[1:]) == self.shape:
            return volumes
        if self.reduce == "average":
            return average(volumes, self.shape)
        last_z, last_y, last_x = self._last_starts(volumes)
        return self._cut(volumes, [(last_z // 2, last_y // 2, last_x // 2)] * len(volumes))

    def make_random_view(self, volumes: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The view of a training step, (B, *`shape`), from a CPU generator for each volume."""
        if self.reduce == "average" or tuple(volumes.shape[1:]) == self.shape:
            return self.make_middle_view(volumes)
        last = torch.tensor(self._last_starts(volumes))
        draws = torch.stack([torch.rand(3, generator=g, dtype=torch.float64) for g in generators])
        starts = (draws * (last + 1)).long().tolist()
        return self._cut(volumes, starts)

    def _last_starts(self, volumes: Tensor) -> tuple[int, int, int]:
        """Largest (z, y, x) at which a window can start."""
        _, z, y, x = volumes.shape
        step = z // self.slices
        return (z - 1 - (self.slices - 1) * step, y - self.size_px, x - self.size_px)

    def _cut(self, volumes: Tensor, starts: Sequence[Sequence[int]]) -> Tensor:
        step = volumes.shape[1] // self.slices
        cuts = [
            volume[z : z + self.slices * step : step, y : y + self.size_px, x : x + self.size_px]
            for volume, (z, y, x) in zip(volumes, starts, strict=True)
        ]
        return torch.stack(cuts)


def average(volumes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Area average of stored voxels (B, Z, Y, X): (B, *`shape`), rounded, of the same dtype."""
    pooled = functional.adaptive_avg_pool3d(volumes.float(), shape)
    return pooled.round_().to(volumes.dtype)
