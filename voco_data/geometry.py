"""Where voxels lie in the patient: LPS millimetres, and the way to the canonical axes and back.

Canonical: index grows toward superior (z), posterior (y) and left (x), which are the directions
+S, +P and +L of DICOM's patient coordinate system (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

Triple = tuple[float, float, float]

CANONICAL_AXES: tuple[Triple, Triple, Triple] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Unit LPS directions of the canonical z, y and x index."""

ORTHOGONAL_TOLERANCE = 1e-3
"""Largest cosine between two axes that count as perpendicular."""

SPACING_RANGE_MM = (0.05, 50.0)
"""Spacings outside are not from a CT scanner."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """A regular grid in the patient, in the order of the array's (slice, row, column) index."""

    shape: tuple[int, int, int]
    """Voxels along (slice, row, column)."""
    spacing_mm: Triple
    """Distance between voxels along each index."""
    origin_mm: Triple
    """LPS position of the centre of voxel (0, 0, 0)."""
    axes: tuple[Triple, Triple, Triple]
    """Unit LPS direction of each index."""

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.shape):
            raise SeriesRefused(Reason.BAD_GEOMETRY, f"empty volume {self.shape}")
        low, high = SPACING_RANGE_MM
        if not all(low <= s <= high for s in self.spacing_mm):
            raise SeriesRefused(
                Reason.BAD_GEOMETRY,
                f"spacing {tuple(round(s, 4) for s in self.spacing_mm)} mm is outside {low}-{high}",
            )
        matrix = np.asarray(self.axes)
        if not np.isfinite(matrix).all() or not np.isfinite(self.origin_mm).all():
            raise SeriesRefused(Reason.BAD_GEOMETRY, "position or orientation is not finite")
        if np.abs(matrix @ matrix.T - np.eye(3)).max() > ORTHOGONAL_TOLERANCE:
            raise SeriesRefused(Reason.BAD_GEOMETRY, "axes are not perpendicular unit vectors")

    @property
    def extent_mm(self) -> Triple:
        """Length covered along each index, voxel edges included."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return (z, y, x)

    def canonical(self, tolerance_deg: float) -> Canonical:
        """The permutation and flips that bring the array to the canonical axes.

        Raises SeriesRefused(OBLIQUE) if an axis is further than `tolerance_deg` from them.
        """
        cosines = np.asarray(CANONICAL_AXES) @ np.asarray(self.axes).T
        nearest = np.abs(cosines).argmax(axis=1)
        if len(set(nearest.tolist())) != 3:
            raise SeriesRefused(Reason.OBLIQUE, "axes lie between the patient's axes")
        picked = cosines[np.arange(3), nearest]
        angle = math.degrees(math.acos(min(1.0, float(np.abs(picked).min()))))
        if angle > tolerance_deg:
            raise SeriesRefused(
                Reason.OBLIQUE,
                f"an axis is {angle:.1f} degrees off the patient's axes, at most "
                f"{tolerance_deg:g} can be kept without resampling",
            )
        z, y, x = (int(n) for n in nearest)
        fz, fy, fx = (bool(c < 0) for c in picked)
        return Canonical(self, (z, y, x), (fz, fy, fx))


@dataclass(frozen=True, slots=True)
class Canonical:
    """A geometry seen along the canonical axes: how to permute and flip, and where voxels lie."""

    native: Geometry
    permutation: tuple[int, int, int]
    """Canonical axis i is the scanner's axis permutation[i]."""
    flips: tuple[bool, bool, bool]
    """Canonical axis i runs against the scanner's index."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along canonical (z, y, x)."""
        z, y, x = (self.native.shape[p] for p in self.permutation)
        return (z, y, x)

    @property
    def spacing_mm(self) -> Triple:
        """Spacing along canonical (z, y, x)."""
        z, y, x = (self.native.spacing_mm[p] for p in self.permutation)
        return (z, y, x)

    @property
    def first_mm(self) -> Triple:
        """Canonical (z, y, x) coordinate, in LPS mm, of the centre of canonical voxel (0, 0, 0)."""
        origin = np.asarray(self.native.origin_mm)
        for axis, flipped in zip(self.permutation, self.flips, strict=True):
            if flipped:
                steps = (self.native.shape[axis] - 1) * self.native.spacing_mm[axis]
                origin = origin + steps * np.asarray(self.native.axes[axis])
        return (float(origin[2]), float(origin[1]), float(origin[0]))

    def view(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """`array` in the scanner's order as a view along the canonical axes. Nothing is copied."""
        turned = array.transpose(self.permutation)
        return turned[tuple(slice(None, None, -1) if f else slice(None) for f in self.flips)]
