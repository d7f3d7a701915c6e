"""Grids and boxes in the patient: positions in LPS mm, and the map to the canonical axes and back.

Canonical: index grows toward superior (z), posterior (y) and left (x), which are the directions
+S, +P and +L of DICOM's patient coordinate system (PS3.3 C.7.6.2.1.1). A scanner's grid may be
sheared: a tilted gantry steps along a direction that is not the normal of its slices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

Triple = tuple[float, float, float]
Index = tuple[int, int, int]

CANONICAL_AXES: tuple[Triple, Triple, Triple] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Unit LPS directions of the canonical z, y and x index."""

ORTHOGONAL_TOLERANCE = 1e-3
"""Largest cosine between two axes that count as perpendicular."""

SPACING_RANGE_MM = (0.05, 50.0)
"""Smallest and largest spacing that a geometry accepts."""

MAX_POSITION_MM = 100_000.0
"""Largest absolute coordinate of a position."""

MIN_DETERMINANT = 0.5
"""Smallest volume of the parallelepiped of three unit axes. No gantry tilt reaches it."""


def unit_vector(vector: Sequence[float]) -> Triple:
    """`vector` scaled to length 1. Raises SeriesRefused(BAD_GEOMETRY) for length 0."""
    x, y, z = vector
    length = math.hypot(x, y, z)
    if not length > 0:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "an axis without length")
    return (x / length, y / length, z / length)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A regular grid in the patient, in the order of the array's (slice, row, column) index.

    Raises SeriesRefused(BAD_GEOMETRY) for spacings, positions or axes that no CT scanner gives.
    """

    shape: Index
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
        if np.abs(self.origin_mm).max() > MAX_POSITION_MM:
            raise SeriesRefused(Reason.BAD_GEOMETRY, f"position {self.origin_mm} is out of reach")
        if np.abs(np.linalg.norm(matrix, axis=1) - 1).max() > ORTHOGONAL_TOLERANCE:
            raise SeriesRefused(Reason.BAD_GEOMETRY, "axes are not unit vectors")
        if abs(np.linalg.det(matrix)) < MIN_DETERMINANT:
            raise SeriesRefused(Reason.BAD_GEOMETRY, "axes lie nearly in one plane")

    @property
    def extent_mm(self) -> Triple:
        """Length covered along each index, voxel edges included."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return (z, y, x)

    @property
    def is_sheared(self) -> bool:
        """Whether two axes are not perpendicular."""
        matrix = np.asarray(self.axes)
        return bool(np.abs(matrix @ matrix.T - np.eye(3)).max() > ORTHOGONAL_TOLERANCE)

    @property
    def index_to_mm(self) -> npt.NDArray[np.float64]:
        """(4, 4): homogeneous index (slice, row, column, 1) to LPS (x, y, z, 1) in mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(self.axes).T * np.asarray(self.spacing_mm)
        matrix[:3, 3] = self.origin_mm
        return matrix

    def is_aligned(self, tolerance_deg: float) -> bool:
        """Whether a permutation and flips bring the array to the canonical axes.

        True without shear, if every axis is within `tolerance_deg` of a canonical one.
        """
        _, cosines = nearest_axes(self.axes)
        return not self.is_sheared and _angle_deg(cosines) <= tolerance_deg

    def canonical(self, tolerance_deg: float) -> Canonical:
        """The permutation and flips that bring the array to the canonical axes.

        Raises ValueError unless `is_aligned(tolerance_deg)`. `voco_data.preprocessing.reorient`
        resamples other grids onto an aligned one.
        """
        if not self.is_aligned(tolerance_deg):
            _, cosines = nearest_axes(self.axes)
            raise ValueError(
                f"{_angle_deg(cosines):.1f} degrees off the patient's axes, or sheared"
            )
        return self.nearest_canonical()

    def nearest_canonical(self) -> Canonical:
        """The permutation and flips that come nearest to the canonical axes, at any angle."""
        nearest, cosines = nearest_axes(self.axes)
        fz, fy, fx = (bool(c < 0) for c in cosines)
        return Canonical(self, nearest, (fz, fy, fx))


def nearest_axes(
    axes: tuple[Triple, Triple, Triple],
) -> tuple[Index, npt.NDArray[np.float64]]:
    """The scanner's axis nearest to each of canonical z, y and x, and the signed cosines, (3,).

    Each axis of the scanner is used once: the permutation with the largest sum of |cosine|.
    """
    cosines = np.asarray(CANONICAL_AXES) @ np.asarray(axes).T
    z, y, x = max(
        itertools.permutations(range(3)),
        key=lambda order: float(np.abs(cosines[range(3), order]).sum()),
    )
    return (z, y, x), cosines[range(3), (z, y, x)]


def _angle_deg(cosines: npt.NDArray[np.float64]) -> float:
    return math.degrees(math.acos(min(1.0, float(np.abs(cosines).min()))))


@dataclass(frozen=True, slots=True)
class Canonical:
    """A grid along the canonical axes: the scanner's grid, permuted and flipped."""

    native: Geometry
    """The grid in the scanner's order."""
    permutation: Index
    """Canonical axis i is the scanner's axis permutation[i]."""
    flips: tuple[bool, bool, bool]
    """Whether canonical axis i has the opposite direction of the scanner's axis."""

    @property
    def shape(self) -> Index:
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

    def edge_mm(self, index: Index) -> Triple:
        """Canonical (z, y, x) coordinate, in LPS mm, of the lower edges of a canonical voxel."""
        z, y, x = (
            first + (i - 0.5) * step
            for first, i, step in zip(self.first_mm, index, self.spacing_mm, strict=True)
        )
        return (z, y, x)

    def to_canonical(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """A view of `array`, (slice, row, column), along the canonical axes (z, y, x)."""
        return array.transpose(self.permutation)[self._flip]

    def to_native(self, array: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """A view of `array`, canonical (z, y, x), in the scanner's order: undoes `to_canonical`."""
        return array[self._flip].transpose(np.argsort(self.permutation))

    @property
    def _flip(self) -> tuple[slice, slice, slice]:
        """Index of an array along the canonical axes that reverses the flipped ones."""
        z, y, x = (slice(None, None, -1 if flipped else None) for flipped in self.flips)
        return (z, y, x)


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a canonical volume: voxels start..stop-1 along (z, y, x)."""

    start: Index
    stop: Index
    method: str
    """Source of the box: `profile` (dome, pelvis or the scan's ends), `body`, `whole` or `mask`. Of
    a table: `projection` for one of `voco localise`, else `given:` and the name of its maker."""
    confidence: float
    """0 to 1; below 0.5 the box is a fallback that may contain more than the abdomen."""
    doubts: tuple[str, ...] = ()
    """Flags for the ledger: what the search for the box found wrong with the scan."""

    def __post_init__(self) -> None:
        if not all(0 <= a < b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"empty box {self.start}..{self.stop}")

    @classmethod
    def whole(cls, shape: Index) -> Box:
        """The box of all voxels."""
        return cls((0, 0, 0), shape, "whole", 0.0)

    def low_mm(self, canonical: Canonical) -> Triple:
        """Lowest LPS coordinate (z, y, x) inside the box, voxel edges included."""
        return canonical.edge_mm(self.start)

    def high_mm(self, canonical: Canonical) -> Triple:
        """Highest LPS coordinate (z, y, x) inside the box, voxel edges included."""
        return canonical.edge_mm(self.stop)


def is_given_box(method: str) -> bool:
    """Whether the method of a box says that it came from a table; see `Box.method`."""
    return method == "projection" or method.startswith("given:")
