"""What the classifier sees of a stored volume: fewer slices, fewer pixels.

`average` shrinks by area averaging: nothing is drawn at random, so it can be done once and kept.
`subsample` takes every k-th slice and a square window: a random one in training, the middle one
otherwise (the preset of the paper's code: 48 of 96 slices, 192 of 256 px).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.data.items import VolumeSource


@dataclass(frozen=True, slots=True)
class VolumeView:
    """Shape of the classifier's input and the way to it."""

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

    def check(self, grid: tuple[int, int, int]) -> None:
        """InputError if volumes of `grid` (Z, Y, X) are too small for this view."""
        if any(have < want for have, want in zip(grid, self.shape, strict=True)):
            raise InputError(
                f"the recipe looks at {self.shape} voxels, the store's grid {grid} has fewer; "
                "use a store of the finetune spec, or another recipe"
            )

    def middle(self, volumes: Tensor) -> Tensor:
        """The view without chance: (B, Z, Y, X) uint8 -> (B, `shape`) uint8."""
        if tuple(volumes.shape[1:]) == self.shape:
            return volumes
        if self.reduce == "average":
            return average(volumes, self.shape)
        room_z, room_y, room_x = self._room(volumes)
        return self._cut(volumes, [(room_z // 2, room_y // 2, room_x // 2)] * len(volumes))

    def random(self, volumes: Tensor, generator: torch.Generator) -> Tensor:
        """The view of a training step; `generator` is a CPU generator."""
        if self.reduce == "average" or tuple(volumes.shape[1:]) == self.shape:
            return self.middle(volumes)
        room = torch.tensor(self._room(volumes))
        draws = torch.rand(len(volumes), 3, generator=generator, dtype=torch.float64)
        starts = (draws * (room + 1)).long().tolist()
        return self._cut(volumes, starts)

    def _room(self, volumes: Tensor) -> tuple[int, int, int]:
        """Largest (z, y, x) start of a window."""
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
    """Area average of uint8 (B, Z, Y, X) to uint8 (B, `shape`), rounded."""
    pooled = functional.adaptive_avg_pool3d(volumes.float(), shape)
    return pooled.round_().to(torch.uint8)


class ReducedVolumes:
    """Some volumes of a store, averaged to `shape` and kept in memory: a `VolumeSource`.

    Each volume is read when it is first asked for, and once only.
    """

    def __init__(self, source: VolumeSource, shape: tuple[int, int, int]) -> None:
        self._source = source
        self._shape = shape
        self._kept: dict[int, npt.NDArray[np.uint8]] = {}

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) after averaging."""
        return self._shape

    def read(self, row: int, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """The averaged volume at `row`, into `out` where given. Safe to call from threads."""
        volume = self._kept.get(row)
        if volume is None:
            full = torch.from_numpy(self._source.read(row))
            volume = average(full[None], self._shape)[0].numpy()
            self._kept[row] = volume
        if out is None:
            return volume.copy()
        out[...] = volume
        return out

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The same as float32."""
        out[...] = self.read(row)
