"""The view of a stored volume that the classifier gets: fewer slices, fewer pixels.

`average` shrinks by area averaging. It is deterministic, so reduced volumes can be kept in memory.
`subsample` takes every k-th slice and a square window of the plane: a random window in training,
the middle one otherwise. The authors' code takes 48 of 96 slices and 192 of 256 px. With `z_range`,
the view shows a part of the volume, for example the upper abdomen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.recorded_options import WHEN_CHANGED


@dataclass(frozen=True, slots=True)
class VolumeView:
    """Shape of the classifier's input, and the way in which a volume is reduced to it."""

    slices: int
    """Slices of the classifier's input."""
    size_px: int
    """Rows and columns of a slice of the input."""
    reduce: Literal["average", "subsample"]
    """Area average of the volume, or every k-th slice and a window of the plane."""
    z_range: tuple[float, float] = field(default=(0.0, 1.0), metadata=WHEN_CHANGED)
    """Lowest and highest place of the view in the volume: 0 is its inferior, 1 its superior end."""

    def __post_init__(self) -> None:
        low, high = self.z_range
        if not 0 <= low < high <= 1:
            raise InputError(f"recipe: z_range must be 0 <= low < high <= 1, got {low}, {high}")
        if self.slices < 1 or self.size_px < 1:
            raise InputError("recipe: slices and size_px must be at least 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) of the input."""
        return (self.slices, self.size_px, self.size_px)

    def check_grid(self, grid: tuple[int, int, int]) -> None:
        """InputError if volumes of `grid` (Z, Y, X) are too small for this view."""
        part = (len(self._slices_of(grid[0])), *grid[1:])
        if any(stored < viewed for stored, viewed in zip(part, self.shape, strict=True)):
            raise InputError(
                f"the recipe looks at {self.shape} voxels, the store's grid {grid} has fewer in "
                f"its z range {self.z_range[0]:g} to {self.z_range[1]:g}; "
                "use a store of the finetune spec, or another recipe"
            )

    def depths_mm(self, z_extent_mm: Tensor) -> Tensor:
        """Depths (B, `slices`) of the middles of the view's slices below the superior end.

        `z_extent_mm` (B,) are the lengths of the stored volumes along z. The depths are those
        of the middle view; a random one may lie up to one step beside it.
        """
        low, high = self.z_range
        middles = (torch.arange(self.slices, device=z_extent_mm.device) + 0.5) / self.slices
        return z_extent_mm[:, None] * (1 - (low + (high - low) * middles))

    def shows_whole_planes(self, grid: tuple[int, int, int]) -> bool:
        """Whether the view of volumes of `grid` has no window of the plane."""
        return self.reduce == "average" or grid[1:] == self.shape[1:]

    def plane_range(self, grid: tuple[int, int, int]) -> tuple[tuple[float, float], ...]:
        """Lowest and highest place of the middle view, from 0 to 1, in the rows and in the columns
        of volumes of `grid`."""
        if self.shows_whole_planes(grid):
            return ((0.0, 1.0), (0.0, 1.0))
        starts = [(side - self.size_px) // 2 for side in grid[1:]]
        return tuple(
            (start / side, (start + self.size_px) / side)
            for start, side in zip(starts, grid[1:], strict=True)
        )

    def shown_range(self, stored: int) -> tuple[float, float]:
        """Lowest and highest place of the middle view in volumes of `stored` slices.

        0 is the inferior end of the volume, 1 its superior end. If the range is divided into
        `slices` equal parts, their middles are those of the view's slices. It is `z_range`,
        unless this cuts a slice, or `subsample` leaves out slices at both ends. Where it takes
        every k-th slice, the range reaches (k - 1) / 2 slices beyond the first and the last one.
        """
        slices = self._slices_of(stored)
        if self.reduce == "average":
            return slices.start / stored, slices.stop / stored
        step = len(slices) // self.slices
        first = slices.start + (len(slices) - 1 - (self.slices - 1) * step) // 2
        low = first - (step - 1) / 2
        return low / stored, (low + self.slices * step) / stored

    def make_middle_view(self, volumes: Tensor) -> Tensor:
        """The deterministic view of volumes (B, Z, Y, X): (B, *`shape`), of the same dtype."""
        if tuple(volumes.shape[1:]) == self.shape:
            return volumes
        volumes = self._take_range(volumes)
        if self.reduce == "average":
            return average(volumes, self.shape)
        last_z, last_y, last_x = self._last_starts(volumes)
        return self._cut(volumes, [(last_z // 2, last_y // 2, last_x // 2)] * len(volumes))

    def make_random_view(self, volumes: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The view of a training step, (B, *`shape`), from a CPU generator for each volume."""
        if self.reduce == "average" or tuple(volumes.shape[1:]) == self.shape:
            return self.make_middle_view(volumes)
        volumes = self._take_range(volumes)
        last = torch.tensor(self._last_starts(volumes))
        draws = torch.stack([torch.rand(3, generator=g, dtype=torch.float64) for g in generators])
        starts = (draws * (last + 1)).long().tolist()
        return self._cut(volumes, starts)

    def _slices_of(self, stored: int) -> range:
        """The slices of a volume of `stored` slices that `z_range` contains."""
        low, high = self.z_range
        return range(round(low * stored), round(high * stored))

    def _take_range(self, volumes: Tensor) -> Tensor:
        slices = self._slices_of(volumes.shape[1])
        return volumes[:, slices.start : slices.stop]

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
