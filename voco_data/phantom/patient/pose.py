"""The pose of a patient, and the planes and contrast phase of one scan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voco_data.phantom.patient.points import Bounds, Points, Vector

PhaseName = Literal["arterial", "portal", "plain"]
"""`plain` is a scan without contrast medium in the vessels."""


@dataclass(frozen=True, slots=True)
class Pose:
    """From the standard body (mm) to the scanner's LPS frame (mm): scale, turn about z, shift."""

    scale: Vector
    turn_rad: float
    """Positive turns x (left) towards y (posterior)."""
    shift_mm: Vector

    def to_scanner(self, point: Vector) -> Vector:
        """A point of the standard body in LPS."""
        x, y, z = (p * s for p, s in zip(point, self.scale, strict=True))
        c, s = math.cos(self.turn_rad), math.sin(self.turn_rad)
        dx, dy, dz = self.shift_mm
        return (c * x - s * y + dx, s * x + c * y + dy, z + dz)

    def box_to_scanner(self, bounds: Bounds) -> Bounds:
        """The LPS box around a box of the standard body."""
        corners = np.array(
            [
                self.to_scanner((bounds[i][0], bounds[j][1], bounds[k][2]))
                for i in (0, 1)
                for j in (0, 1)
                for k in (0, 1)
            ]
        )
        low, high = corners.min(axis=0), corners.max(axis=0)
        return (
            (float(low[0]), float(low[1]), float(low[2])),
            (float(high[0]), float(high[1]), float(high[2])),
        )

    def points(self, scan: Scan) -> Points:
        """The pixels of a scan as points of the standard body."""
        dx, dy, dz = self.shift_mm
        c, s = math.cos(self.turn_rad), math.sin(self.turn_rad)
        y, x = np.meshgrid(scan.y_mm - dy, scan.x_mm - dx, indexing="ij")
        return Points(
            (((c * x + s * y) / self.scale[0]).astype(np.float32))[None],
            (((c * y - s * x) / self.scale[1]).astype(np.float32))[None],
            ((scan.z_mm - dz) / self.scale[2]).astype(np.float32)[:, None, None],
        )


@dataclass(frozen=True, slots=True)
class Phase:
    """HU of the tissues in a contrast phase."""

    name: PhaseName
    aorta: float
    vein: float
    """Inferior vena cava and iliac veins."""
    cortex: float
    medulla: float
    liver: float
    liver_vessel: float
    spleen: float
    bowel_wall: float
    heart: float
    muscle: float


@dataclass(frozen=True, slots=True)
class Scanner:
    """What a scanner and its reconstruction do to an image."""

    blur_mm: float = 0.5
    """Standard deviation of the kernel in the plane."""
    sharpening: float = 0.0
    """Share of the lost detail that the kernel gives back, and more: edges overshoot above 0."""
    grain_mm: float = 0.5
    """Standard deviation of the blur of the noise in the plane."""
    streaks_hu: float = 0.0
    """Standard deviation of streaks at their source."""
    cupping_hu: float = 0.0
    """How much darker the middle of the body is."""
    round_field: bool = False
    """Whether the image has no data outside a circle."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Planes, phase and noise of one axial scan. Arrays are (z, y, x), all axes growing in LPS.

    Positions are multiples of 1/128 mm, so that DICOM decimal strings and NIfTI float32 hold
    them exactly.
    """

    first_z_mm: float
    """Position of the lowest plane."""
    spacing_mm: float
    """Gap between planes, also their nominal thickness."""
    slices: int
    pixel_mm: float
    rows: int
    columns: int
    corner_mm: tuple[float, float]
    """(x, y) of the middle of the first pixel."""
    phase: Phase
    noise_hu: float
    """Standard deviation of the noise."""
    offset_hu: float
    """Constant error of the scanner's calibration."""
    noise_seed: int
    scanner: Scanner | None = None
    """None for the plain phantom's: white noise with a short blur."""

    def __post_init__(self) -> None:
        if (
            min(self.slices, self.rows, self.columns) < 1
            or min(self.spacing_mm, self.pixel_mm) <= 0
        ):
            raise ValueError("a scan needs at least one voxel and spacings above 0")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X)."""
        return (self.slices, self.rows, self.columns)

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """Positions of the planes, ascending, shape (Z,)."""
        return self.first_z_mm + self.spacing_mm * np.arange(self.slices, dtype=np.float64)

    @property
    def x_mm(self) -> NDArray[np.float64]:
        """Positions of the columns, shape (X,)."""
        return self.corner_mm[0] + self.pixel_mm * np.arange(self.columns, dtype=np.float64)

    @property
    def y_mm(self) -> NDArray[np.float64]:
        """Positions of the rows, shape (Y,)."""
        return self.corner_mm[1] + self.pixel_mm * np.arange(self.rows, dtype=np.float64)


def nearest_128th(length_mm: float) -> float:
    """The nearest multiple of 1/128 mm."""
    return round(length_mm * 128) / 128
