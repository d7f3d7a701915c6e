"""Points of the standard body, in mm, at which shapes are evaluated: broadcastable coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Vector = tuple[float, float, float]
Bounds = tuple[Vector, Vector]
"""Lowest and highest corner (x, y, z) of an axis-aligned box, in mm."""


@dataclass(frozen=True, slots=True)
class Points:
    """Points (x to the left, y to posterior, z to superior; mm) on a stack of parallel planes.

    The planes are level, so z never depends on the pixel. That keeps x and y two-dimensional and
    makes the evaluation of a shape mostly two-dimensional work.
    """

    x: F32
    """Shape (1, Y, X)."""
    y: F32
    """Shape (1, Y, X)."""
    z: F32
    """Shape (Z, 1, 1)."""

    def __post_init__(self) -> None:
        if self.x.shape != self.y.shape or self.x.shape[0] != 1 or self.z.shape[1:] != (1, 1):
            raise ValueError(
                f"expected (1, Y, X), (1, Y, X) and (Z, 1, 1), "
                f"got {self.x.shape}, {self.y.shape} and {self.z.shape}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of the distances at these points."""
        return (self.z.shape[0], self.x.shape[1], self.x.shape[2])

    def crop(self, z: slice, y: slice, x: slice) -> Points:
        """The points of a sub-block (views, no copies)."""
        return Points(self.x[:, y, x], self.y[:, y, x], self.z[z])


def lattice(bounds: Bounds, step_mm: float) -> Points:
    """A regular lattice over `bounds`, on which volumes and extents are measured."""
    (x0, y0, z0), (x1, y1, z1) = bounds
    x = np.arange(x0, x1 + step_mm, step_mm, dtype=np.float32)
    y = np.arange(y0, y1 + step_mm, step_mm, dtype=np.float32)
    z = np.arange(z0, z1 + step_mm, step_mm, dtype=np.float32)
    plane_y, plane_x = np.meshgrid(y, x, indexing="ij")
    return Points(plane_x[None], plane_y[None], z[:, None, None])


def grow(bounds: Bounds, margin_mm: float) -> Bounds:
    """`bounds` with `margin_mm` more on every side."""
    (x0, y0, z0), (x1, y1, z1) = bounds
    m = margin_mm
    return ((x0 - m, y0 - m, z0 - m), (x1 + m, y1 + m, z1 + m))


def enclose(boxes: list[Bounds]) -> Bounds:
    """The smallest box around all `boxes`."""
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    return (vector(low), vector(high))


def vector(values: NDArray[np.floating] | list[float]) -> Vector:
    """Three plain floats."""
    x, y, z = (float(v) for v in values)
    return (x, y, z)
