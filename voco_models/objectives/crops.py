"""In-plane crops: their boxes, their overlaps, and their extraction from volumes.

Only the drawing of boxes is random. All else is a function of the boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data import copy_to_device

TargetMode = Literal["overlap", "iou"]
"""The target of a cosine: intersection / crop area (the code), or / union (the paper)."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """Rectangles of one size on a plane. A box covers the pixels [y, y+h) x [x, x+w)."""

    corners: Tensor
    """int64 (..., N, 2): (y, x) of each box's first pixel."""
    size: tuple[int, int]
    """(h, w) in pixels."""

    def __post_init__(self) -> None:
        if self.corners.dtype != torch.int64 or self.corners.shape[-1] != 2:
            raise ValueError(f"expected int64 corners (..., N, 2), got {self.corners.shape}")
        if min(self.size) < 1:
            raise ValueError(f"expected boxes of at least one pixel, got {self.size}")

    def to(self, device: torch.device) -> Boxes:
        """The same boxes on `device`."""
        return Boxes(copy_to_device(self.corners, device), self.size)


@dataclass(frozen=True, slots=True)
class CropPlan:
    """A grid of base crops that tiles the plane, and random crops of the same size."""

    plane: tuple[int, int]
    """(Y, X) of the volumes, in pixels."""
    grid: int = 3
    """Base crops per side; 3 gives 3 x 3 crops of 64 px on a 192 px plane."""
    n_random: int = 2
    """Random crops per volume."""

    def __post_init__(self) -> None:
        if self.grid < 1 or self.n_random < 1:
            raise InputError("crops: grid and n_random must be at least 1")
        if any(length < self.grid or length % self.grid for length in self.plane):
            raise InputError(
                f"crops: a {self.grid} x {self.grid} grid needs slices whose sides are multiples "
                f"of {self.grid}, got {self.plane[0]} x {self.plane[1]}; use a store made with the "
                "pretrain spec (192 x 192), or a recipe with another grid"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of every crop, in pixels."""
        return self.plane[0] // self.grid, self.plane[1] // self.grid

    def base_boxes(self) -> Boxes:
        """Boxes of the base crops, row by row; corners (grid * grid, 2)."""
        steps = torch.arange(self.grid)
        corners = torch.cartesian_prod(steps, steps) if self.grid > 1 else torch.zeros(1, 2)
        return Boxes(corners.long() * torch.tensor(self.size), self.size)

    def draw_boxes(self, batch: int, generator: torch.Generator) -> Boxes:
        """Boxes of random crops, uniform inside the plane; corners (batch, n_random, 2)."""
        n_starts = [length - side + 1 for length, side in zip(self.plane, self.size, strict=True)]
        starts = [
            torch.randint(n, (batch, self.n_random), generator=generator, device=generator.device)
            for n in n_starts
        ]
        return Boxes(torch.stack(starts, dim=-1), self.size)


def overlap_targets(random: Boxes, base: Boxes, mode: TargetMode = "overlap") -> Tensor:
    """Overlap of each random crop (..., n) with each base crop (..., m): float32 (..., n, m).

    `overlap` is intersection / area of the random crop, so a row over a grid that tiles the plane
    sums to 1. `iou` is intersection / union; for equal sizes it is o / (2 - o) of the overlap o.
    """
    low = torch.maximum(random.corners[..., :, None, :], base.corners[..., None, :, :])
    sides = []
    for axis in (0, 1):  # y, x; sizes are numbers, which need no copy to the device
        random_end = random.corners[..., :, None, axis] + random.size[axis]
        base_end = base.corners[..., None, :, axis] + base.size[axis]
        shared = torch.minimum(random_end, base_end) - low[..., axis]
        sides.append(shared.clamp(min=0))
    intersection = (sides[0] * sides[1]).float()
    area = float(random.size[0] * random.size[1])
    if mode == "overlap":
        return intersection / area
    return intersection / (area + base.size[0] * base.size[1] - intersection)


def extract_crops(volumes: Tensor, boxes: Boxes) -> Tensor:
    """The crops of `boxes` (B, N) or (N,) in all slices of `volumes` (B, Z, Y, X).

    Returns (B, N, Z, h, w) of the same dtype. Boxes must be inside the plane.
    """
    corners = boxes.corners.expand(len(volumes), *boxes.corners.shape[-2:])
    if volumes.device.type == "cpu":  # on a device, the CPU would have to wait for the corners
        return copy_crops(volumes, corners, boxes.size)
    return index_crops(volumes, corners, boxes.size)


def copy_crops(volumes: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """The crops at `corners` (B, N, 2), as copies of rows: on a CPU ten times as fast."""
    h, w = size
    crops = [
        torch.stack([volume[:, y : y + h, x : x + w] for y, x in starts])
        for volume, starts in zip(volumes, corners.tolist(), strict=True)
    ]
    return torch.stack(crops)


def index_crops(volumes: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """The crops at `corners` (B, N, 2), by the index of each pixel, which stays on the device."""
    (B, Z), (h, w), device = volumes.shape[:2], size, volumes.device
    ys = corners[..., 0, None] + torch.arange(h, device=device)  # (B, N, h)
    xs = corners[..., 1, None] + torch.arange(w, device=device)  # (B, N, w)
    bs = torch.arange(B, device=device)
    zs = torch.arange(Z, device=device)
    return volumes[
        bs[:, None, None, None, None],
        zs[None, None, :, None, None],
        ys[:, :, None, :, None],
        xs[:, :, None, None, :],
    ]
