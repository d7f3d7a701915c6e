"""Spine, ribs, sternum, pelvis and femora, in the frame of `voco_data.phantom.patient.trunk`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voco_data.phantom.patient.points import F32, Bounds, Points
from voco_data.phantom.patient.shapes import Capsule, ClippedShape, Ellipsoid, Shape, Union
from voco_data.phantom.patient.trunk import Cavity, interpolate

_SPINE_Z = (-60, 0, 60, 120, 200, 300, 380, 430)
_SPINE_Y = (52, 42, 40, 44, 56, 66, 62, 54)
_SPINE_Z_HALF = (-60, 60, 200, 430)
_SPINE_A = (25, 24, 20, 15)
_SPINE_B = (17, 17, 15, 12)
_SPINE_LOW, _SPINE_HIGH = -30.0, 1000.0
VERTEBRA_MM = 34.0
"""Height of a vertebra with its disc."""
DISC_MM = 8.0
ISCHIUM_BOTTOM_MM = -186.0
"""The lowest point of the pelvis: the ischial tuberosities."""


def bone_hu(_p: Points, distance: F32) -> F32:
    """Dense at the surface, marrow inside."""
    depth: F32 = np.clip((-distance - 2) * np.float32(0.25), 0, 1)
    hu: F32 = np.float32(520) - np.float32(320) * depth
    return hu


def _height_in_vertebra(z: F32) -> F32:
    """Distance of `z` from the middle of its vertebra, in mm; the disc is at the far end."""
    return np.abs(np.mod(z, np.float32(VERTEBRA_MM)) - np.float32(VERTEBRA_MM / 2))


@dataclass(frozen=True, slots=True)
class SpineBodies:
    """The column of vertebral bodies and discs."""

    def bounds(self) -> Bounds:
        """Box of the column."""
        return ((-26, 20, _SPINE_LOW), (26, 86, _SPINE_HIGH))

    def distance(self, p: Points) -> F32:
        """An oval tube that follows the curve of the back."""
        a = interpolate(p.z, _SPINE_Z_HALF, _SPINE_A)
        b = interpolate(p.z, _SPINE_Z_HALF, _SPINE_B)
        y = interpolate(p.z, _SPINE_Z, _SPINE_Y)
        oval = (np.sqrt((p.x / a) ** 2 + ((p.y - y) / b) ** 2) - 1) * ((a + b) / 2)
        column: F32 = np.maximum(oval, np.float32(_SPINE_LOW) - p.z)
        return column

    @staticmethod
    def hu(p: Points, distance: F32) -> F32:
        """Bone, but soft where a disc is."""
        edge = np.float32(VERTEBRA_MM / 2 - DISC_MM / 2)
        ramp = (_height_in_vertebra(p.z) - edge) * np.float32(0.5)
        disc: F32 = np.clip(ramp + np.float32(0.5), 0, 1)
        hu: F32 = bone_hu(p, distance) * (1 - disc) + np.float32(85) * disc
        return hu


@dataclass(frozen=True, slots=True)
class SpineArches:
    """The rings round the canal, with spinous and transverse processes."""

    def bounds(self) -> Bounds:
        """Box of the processes."""
        return ((-44, 45, _SPINE_LOW - 40), (44, 116, _SPINE_HIGH))

    def distance(self, p: Points) -> F32:
        """Minimum of ring, spine and cross bar; the bars repeat with the vertebrae."""
        middle = canal_y(p.z)
        ring = np.abs(np.sqrt(p.x**2 + (p.y - middle) ** 2) - 11) - np.float32(2.6)
        across = _height_in_vertebra(p.z + np.float32(8)) - np.float32(9)
        spinous = np.maximum(np.abs(p.x) - np.float32(3.5), np.abs(p.y - middle - 19) - 9)
        cross = np.maximum(np.abs(p.x) - 38, np.abs(p.y - middle + 4) - np.float32(3.5))
        bars = np.maximum(np.minimum(spinous, cross), across)
        ends = np.float32(_SPINE_LOW - 30) - p.z
        arches: F32 = np.maximum(np.minimum(ring, bars), ends)
        return arches


@dataclass(frozen=True, slots=True)
class Canal:
    """The spinal canal."""

    def bounds(self) -> Bounds:
        """Box of the tube."""
        return ((-9, 50, _SPINE_LOW - 40), (9, 100, _SPINE_HIGH))

    def distance(self, p: Points) -> F32:
        """A round tube behind the bodies."""
        tube = np.sqrt(p.x**2 + (p.y - canal_y(p.z)) ** 2) - np.float32(8.5)
        canal: F32 = np.maximum(tube, np.float32(_SPINE_LOW - 40) - p.z)
        return canal


def canal_y(z: F32) -> F32:
    """How far back the middle of the canal is at height z."""
    behind = interpolate(z, _SPINE_Z_HALF, _SPINE_B) + np.float32(9)
    return interpolate(z, _SPINE_Z, _SPINE_Y) + behind


@dataclass(frozen=True, slots=True)
class Ribs:
    """All ribs: tubes on the cavity's outside that fall from back to front."""

    spacing_mm: float = 25.0

    def bounds(self) -> Bounds:
        """Box of the chest."""
        (x0, y0, _), (x1, y1, z1) = Cavity(-14).bounds()
        return ((x0, y0, 70.0), (x1, y1, z1))

    def distance(self, p: Points) -> F32:
        """Distance to the nearest rib's axis, less its radius, above the costal margin."""
        height = p.z + np.float32(0.45) * (80 - p.y)
        gap = np.float32(self.spacing_mm)
        across_rib = (np.abs(np.mod(height, gap) - gap / 2)) * np.float32(0.9)
        off = Cavity(-7).distance(p)
        tube = np.sqrt(off * off + across_rib * across_rib) - np.float32(5)
        margin = np.maximum(105 - height, 95 - np.float32(0.9) * p.y - p.z)
        ribs: F32 = np.maximum(tube, margin)
        return ribs


@dataclass(frozen=True, slots=True)
class IliacWings:
    """Both wings of the ilium: a thick shell, the lower half of a bowl, open in front."""

    def bounds(self) -> Bounds:
        """Box of the bowl."""
        return ((-132, -62, -130), (132, 96, 12))

    def distance(self, p: Points) -> F32:
        """A shell about an ellipsoid, cut to the wings."""
        bowl = Ellipsoid((0, 2, 20), (122, 84, 190)).distance(p)
        shell = np.abs(bowl) - np.float32(5.5)
        crest = p.z - (np.float32(8) - np.float32(0.004) * (p.y - 10) ** 2)
        sides = np.maximum(np.float32(40) - np.abs(p.x), -52 - p.y)
        return np.maximum(np.maximum(shell, crest), np.maximum(sides, -128 - p.z))


def _on_side(x: float, y: float, z: float, side: int) -> tuple[float, float, float]:
    return (side * x, y, z)


def hip_sockets() -> Shape:
    """The bone around both hip joints, with ischium and pubis."""
    parts: list[Shape] = []
    for side in (-1, 1):
        hip = _on_side(86, 8, -112, side)
        seat = _on_side(56, 36, ISCHIUM_BOTTOM_MM + 13, side)
        front = _on_side(7, -62, -148, side)
        parts += [
            Ellipsoid(hip, (33, 32, 34)),
            Capsule(_on_side(84, 28, -130, side), seat, 14, 13),
            Capsule(_on_side(70, -18, -122, side), front, 9),
            Capsule(front, seat, 8),
        ]
    return Union(tuple(parts), blend_mm=4)


def hip_gaps() -> Shape:
    """The joint space around both femoral heads."""
    return Union(tuple(Ellipsoid(_on_side(88, 8, -114, side), (28, 27, 28)) for side in (-1, 1)))


def femora() -> Shape:
    """Heads, necks and shafts of both femora."""
    parts: list[Shape] = []
    for side in (-1, 1):
        hip, bend = _on_side(88, 8, -114, side), _on_side(124, 14, -158, side)
        parts += [
            Ellipsoid(hip, (25, 24, 25)),
            Capsule(hip, bend, 14, 19),
            Capsule(bend, _on_side(96, 6, -400, side), 17, 14),
        ]
    return Union(tuple(parts), blend_mm=6)


def sacrum() -> Shape:
    """The sacrum, its lower end tilted to posterior."""
    body = Ellipsoid((0, 64, -62), (50, 21, 62), pitch=-0.3)
    return ClippedShape(body, without=(Canal(),))


def sternum() -> Shape:
    """The breast bone."""
    return Ellipsoid((0, -93, 300), (17, 6, 80))
