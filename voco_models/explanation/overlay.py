"""A map drawn over a slice of the stored volume."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

HOT = (255.0, 90.0, 0.0)
"""RGB of the largest value."""
MAX_OPACITY = 0.65
FLOOR = 0.1
"""Share of the largest value below which the picture is left as it is."""


def spread_map(
    plane: Tensor, plane_range: tuple[tuple[float, float], ...], shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """A map (h, w) of the view on the pixels (Y, X) of the stored plane; 0 outside of the view.

    Linear between the centres of places. `plane_range` is that of `VolumeView`.
    """
    axes = []
    for n, (low, high) in zip(shape, plane_range, strict=True):
        axes.append(((torch.arange(n, dtype=torch.float64) + 0.5) / n - low) / (high - low))
    ys, xs = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([2 * xs - 1, 2 * ys - 1], dim=-1)[None]
    values = functional.grid_sample(
        plane.double()[None, None], grid, align_corners=False, padding_mode="border"
    )[0, 0]
    seen = (ys >= 0) & (ys <= 1) & (xs >= 0) & (xs <= 1)
    spread: npt.NDArray[np.float32] = torch.where(seen, values, 0.0).float().numpy()
    return spread


def blend(grey: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """RGB (Y, X, 3) of a picture (Y, X) under a map (Y, X) from 0 to 1."""
    opacity = np.where(heat >= FLOOR, MAX_OPACITY * heat, 0)[..., None]
    mixed = grey[..., None] * (1 - opacity) + np.array(HOT) * opacity
    blended: npt.NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return blended
