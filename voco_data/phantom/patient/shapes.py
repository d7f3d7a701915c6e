"""Solid shapes as signed distances (mm, negative inside), approximate far from the surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from voco_data.phantom.patient.points import F32, Bounds, Points, Vector, enclose, grow, vector


class Shape(Protocol):
    """A solid with bounds and a signed distance."""

    def bounds(self) -> Bounds:
        """A box outside of which the distance is positive."""

    def distance(self, p: Points) -> F32:
        """Signed distance in mm, negative inside; shape (Z, Y, X) or broadcastable to it."""


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """An ellipsoid with half axes `radii`, turned about its own axes."""

    centre: Vector
    radii: Vector
    yaw: float = 0.0
    """Turn about z, in radians."""
    pitch: float = 0.0
    """Turn about x, in radians: the upper pole moves to posterior for a positive turn."""
    roll: float = 0.0
    """Turn about y, in radians: the upper pole moves to the left for a positive turn."""

    def bounds(self) -> Bounds:
        """The tight box: its half size along an axis is the norm of the half axes' parts there."""
        reach = np.sqrt(((np.array(self.radii)[:, None] * self._axes()) ** 2).sum(axis=0))
        return (vector(self.centre - reach), vector(self.centre + reach))

    def distance(self, p: Points) -> F32:
        """First-order distance k0 (k0 - 1) / k1 with k0 = |u / r| and k1 = |u / r^2|."""
        x, y, z = (
            part - np.float32(c) for part, c in zip((p.x, p.y, p.z), self.centre, strict=True)
        )
        squares: list[F32] = []
        for axis in self._axes() / np.array(self.radii, np.float32)[:, None]:
            # Parts that vanish are left out: sums stay two- or one-dimensional when they can.
            u = np.zeros((1, 1, 1), np.float32)
            for part, weight in zip((x, y, z), axis, strict=True):
                if weight != 0:
                    u = u + part * weight
            squares.append(u * u)
        r0, r1, r2 = (np.float32(1 / radius**2) for radius in self.radii)
        k0 = np.sqrt(squares[0] + squares[1] + squares[2])
        k1 = np.sqrt(squares[0] * r0 + squares[1] * r1 + squares[2] * r2)
        distance: F32 = k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))
        return distance

    def _axes(self) -> F32:
        """Rows are the directions of the half axes."""
        cy, sy = np.cos(self.yaw), np.sin(self.yaw)
        cp, sp = np.cos(self.pitch), np.sin(self.pitch)
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        yaw = np.array([[cy, sy, 0], [-sy, cy, 0], [0, 0, 1]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, 0, -sr], [0, 1, 0], [sr, 0, cr]])
        turned: F32 = (roll @ pitch @ yaw).astype(np.float32)
        return turned


@dataclass(frozen=True, slots=True)
class Capsule:
    """A straight tube with round ends; its radius may differ between the ends."""

    start: Vector
    end: Vector
    radius: float
    end_radius: float | None = None

    def bounds(self) -> Bounds:
        """Box of the two end spheres."""
        widest = max(self.radius, self.end_radius or 0.0)
        return grow(enclose([(self.start, self.start), (self.end, self.end)]), widest)

    def distance(self, p: Points) -> F32:
        """Distance to the axis less the radius there."""
        a, b = np.array(self.start, np.float32), np.array(self.end, np.float32)
        axis = b - a
        x, y, z = p.x - a[0], p.y - a[1], p.z - a[2]
        squared = np.float32(max(float(axis @ axis), 1e-6))
        t = np.clip(((x * axis[0] + y * axis[1]) + z * axis[2]) / squared, 0, 1)
        away = np.sqrt((x - t * axis[0]) ** 2 + (y - t * axis[1]) ** 2 + (z - t * axis[2]) ** 2)
        end_radius = self.radius if self.end_radius is None else self.end_radius
        radius = np.float32(self.radius) + t * np.float32(end_radius - self.radius)
        distance: F32 = away - radius
        return distance


@dataclass(frozen=True, slots=True)
class Disc:
    """A round plate without thickness: a tear before `OffsetShape` widens it."""

    centre: Vector
    normal: Vector
    """Unit length."""
    radius: float

    def bounds(self) -> Bounds:
        """Box of the enclosing sphere."""
        return grow((self.centre, self.centre), self.radius)

    def distance(self, p: Points) -> F32:
        """Distance to the plate; never negative."""
        n = np.array(self.normal, np.float32)
        c = np.array(self.centre, np.float32)
        x, y, z = p.x - c[0], p.y - c[1], p.z - c[2]
        from_plane = (x * n[0] + y * n[1]) + z * n[2]
        in_plane = np.sqrt(np.maximum((x * x + y * y) + z * z - from_plane * from_plane, 0))
        beyond = np.maximum(in_plane - np.float32(self.radius), 0)
        distance: F32 = np.sqrt(from_plane * from_plane + beyond * beyond)
        return distance


@dataclass(frozen=True, slots=True)
class Ripple:
    """A smooth random field (mm) of a few waves, added to a distance to make it irregular."""

    waves: tuple[tuple[float, float, float, float, float], ...]
    """Each wave: angular frequency along x, y, z (1/mm), phase (rad), height (mm)."""

    @property
    def height(self) -> float:
        """The largest value the field can take."""
        return sum(wave[4] for wave in self.waves)

    def field(self, p: Points) -> F32:
        """The field at `p`; sin(a + b) is split so that sines are taken in 2-D and 1-D only."""
        total = np.zeros(p.shape, np.float32)
        for kx, ky, kz, phase, height in self.waves:
            plane = np.float32(kx) * p.x + np.float32(ky) * p.y + np.float32(phase)
            level = np.float32(kz) * p.z
            total += np.float32(height) * (
                np.sin(plane) * np.cos(level) + np.cos(plane) * np.sin(level)
            )
        return total


def make_ripple(
    rng: np.random.Generator, height_mm: float, wavelength_mm: float, waves: int = 3
) -> Ripple:
    """A ripple of about `height_mm` whose waves are about `wavelength_mm` long."""
    drawn_waves = []
    for _ in range(waves):
        direction = rng.normal(size=3)
        direction *= 2 * np.pi / (wavelength_mm * rng.uniform(0.7, 1.4)) / np.linalg.norm(direction)
        kx, ky, kz = (float(k) for k in direction)
        drawn_waves.append((kx, ky, kz, float(rng.uniform(0, 2 * np.pi)), height_mm / waves))
    return Ripple(tuple(drawn_waves))


@dataclass(frozen=True, slots=True)
class Union:
    """All of `parts` together; `blend_mm` > 0 rounds the seams."""

    parts: tuple[Shape, ...]
    blend_mm: float = 0.0

    def bounds(self) -> Bounds:
        """Box around all parts."""
        return grow(enclose([part.bounds() for part in self.parts]), self.blend_mm / 4)

    def distance(self, p: Points) -> F32:
        """Minimum of the parts, smoothed with a polynomial within `blend_mm`."""
        total = self.parts[0].distance(p)
        k = np.float32(self.blend_mm)
        for part in self.parts[1:]:
            other = part.distance(p)
            near = np.minimum(total, other)
            if k > 0:
                h = np.maximum(k - np.abs(total - other), 0)
                near -= h * h / (4 * k)
            total = near
        return total


@dataclass(frozen=True, slots=True)
class OffsetShape:
    """A shape with its surface moved out by `margin_mm` (in, when negative) and made irregular."""

    shape: Shape
    margin_mm: float = 0.0
    ripple: Ripple = Ripple(())

    def bounds(self) -> Bounds:
        """Box of the shape, grown."""
        return grow(self.shape.bounds(), self.margin_mm + self.ripple.height)

    def distance(self, p: Points) -> F32:
        """Distance of the shape less the margin, plus the ripple."""
        distance = self.shape.distance(p) - np.float32(self.margin_mm)
        return distance + self.ripple.field(p) if self.ripple.waves else distance


@dataclass(frozen=True, slots=True)
class ClippedShape:
    """`shape` inside all of `within` and outside all of `without`."""

    shape: Shape
    within: tuple[Shape, ...] = ()
    without: tuple[Shape, ...] = ()

    def bounds(self) -> Bounds:
        """Box of `shape`."""
        return self.shape.bounds()

    def distance(self, p: Points) -> F32:
        """Maximum of the distances (negated for what is cut out)."""
        distance = self.shape.distance(p)
        for outer in self.within:
            distance = np.maximum(distance, outer.distance(p))
        for hole in self.without:
            distance = np.maximum(distance, -hole.distance(p))
        return distance


def inside_share(distance_mm: F32, width_mm: float) -> F32:
    """Share of a voxel that is inside: a ramp over `width_mm` about the surface."""
    share = np.float32(0.5) - distance_mm * np.float32(1 / width_mm)
    return np.clip(share, 0, 1, out=share)
