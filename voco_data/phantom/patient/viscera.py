"""Solid organs, stomach, bladder, heart and the great vessels, with random sizes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from voco_data.phantom.patient.points import F32, Points, Vector
from voco_data.phantom.patient.pose import Phase
from voco_data.phantom.patient.shapes import (
    Capsule,
    ClippedShape,
    Ellipsoid,
    OffsetShape,
    Ripple,
    Shape,
    Union,
    make_ripple,
)
from voco_data.phantom.patient.trunk import BelowDiaphragm, Cavity, Trunk

ORGAN_LABELS = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4, "bowel": 5}
"""Values of label maps: the ids of the RATIC segmentations."""
SOLID_ORGANS = ("liver", "spleen", "left_kidney", "right_kidney")
WATER_HU = 10.0


@dataclass(frozen=True, slots=True)
class Viscera:
    """The organs of one patient, in the standard body's frame."""

    liver: Shape
    spleen: Shape
    left_kidney: Shape
    right_kidney: Shape
    stomach: Ellipsoid
    gallbladder: Shape
    bladder: Shape
    pancreas: Shape
    heart: Shape
    aorta: Shape
    vein: Shape
    liver_vessels: Shape
    pyramids: Ripple
    """Pattern of cortex and medulla in the kidneys."""

    def solid(self, name: str) -> Shape:
        """One of `SOLID_ORGANS`."""
        shapes = {
            "liver": self.liver,
            "spleen": self.spleen,
            "left_kidney": self.left_kidney,
            "right_kidney": self.right_kidney,
        }
        return shapes[name]

    def kidney_hu(self, phase: Phase) -> KidneyTexture:
        """Texture of both kidneys in a phase."""
        return KidneyTexture(phase.cortex, phase.medulla, self.pyramids)


@dataclass(frozen=True, slots=True)
class KidneyTexture:
    """Cortex outside, pyramids of medulla inside."""

    cortex: float
    medulla: float
    pyramids: Ripple

    def __call__(self, p: Points, distance: F32) -> F32:
        """HU at `p`, by depth under the capsule."""
        depth: F32 = (-distance - 7 + self.pyramids.field(p)) * np.float32(1 / 3)
        share = np.clip(depth, 0, 1)
        hu: F32 = np.float32(self.cortex) + share * np.float32(self.medulla - self.cortex)
        return hu


def make_viscera(rng: np.random.Generator, trunk: Trunk, looseness: float = 1.0) -> Viscera:
    """Draw all organs for a trunk; they do not overlap.

    `looseness` is a factor of the spread of places about those of the standard body.
    """
    k = looseness
    left = _kidney(rng, 1, k)
    right = _kidney(rng, -1, k)
    stomach = Ellipsoid(
        _jittered_position(rng, (44, -26, 140), 5 * k),
        (42 * rng.uniform(0.8, 1.1), 36 * rng.uniform(0.85, 1.15), 40 * rng.uniform(0.8, 1.1)),
        roll=0.35,
        yaw=-0.3,
    )
    gallbladder = Ellipsoid(_jittered_position(rng, (-46, -38, 62), 4 * k), (13, 15, 22), pitch=0.5)
    return Viscera(
        liver=_liver(rng, trunk, right, gallbladder, k),
        spleen=_spleen(rng, trunk, left, stomach, k),
        left_kidney=left,
        right_kidney=right,
        stomach=stomach,
        gallbladder=gallbladder,
        bladder=Ellipsoid((0, -24, -122), _jittered_radii(rng, (34, 27, 28), 0.7, 1.15)),
        pancreas=_pancreas(rng, k),
        heart=Union(
            (
                Ellipsoid(
                    _jittered_position(rng, (26, -28, 246), 4 * k), (56, 38, 44), roll=-0.5, yaw=0.3
                ),
                Ellipsoid((4, -6, 278), (40, 36, 42)),
            ),
            blend_mm=12,
        ),
        aorta=_aorta(rng),
        vein=_vein(rng),
        liver_vessels=_liver_vessels(rng),
        pyramids=make_ripple(rng, 5, 22),
    )


def _jittered_position(rng: np.random.Generator, centre: Vector, spread_mm: float) -> Vector:
    x, y, z = (c + rng.uniform(-spread_mm, spread_mm) for c in centre)
    return (x, y, z)


def _jittered_radii(rng: np.random.Generator, radii: Vector, low: float, high: float) -> Vector:
    size = rng.uniform(low, high)
    a, b, c = (r * size * rng.uniform(0.95, 1.05) for r in radii)
    return (a, b, c)


def _kidney(rng: np.random.Generator, side: int, k: float) -> Shape:
    """A bean: an ellipsoid, upper pole to the middle, less a hilum on the inner side."""
    x, y, z = _jittered_position(rng, (side * 58.0, 29.0, 98.0 if side > 0 else 88.0), 4 * k)
    body = Ellipsoid(
        (x, y, z),
        _jittered_radii(rng, (29, 26, 54), 0.88, 1.12),
        roll=-side * rng.uniform(0.1, 0.25),
        pitch=rng.uniform(0.05, 0.2),
    )
    hilum = Ellipsoid((x - side * 24, y - 6, z), (20, 8, 17))
    return OffsetShape(ClippedShape(body, without=(hilum,)), 0.0, make_ripple(rng, 1.5, 50))


def _liver(
    rng: np.random.Generator, trunk: Trunk, right_kidney: Shape, gallbladder: Shape, k: float
) -> Shape:
    """Two lobes under the right dome, hollowed below by kidney, gut and gallbladder."""
    right = Ellipsoid(
        _jittered_position(rng, (-72, -4, 122), 3 * k),
        _jittered_radii(rng, (76, 82, 92), 0.95, 1.08),
        roll=-0.1,
    )
    left = Ellipsoid(
        _jittered_position(rng, (6, -44, 152), 5 * k),
        _jittered_radii(rng, (72, 34, 38), 0.85, 1.15),
        roll=0.35,
    )
    hollow = Ellipsoid(_jittered_position(rng, (14, 22, 62), 4 * k), (74, 66, 92), roll=0.25)
    back = Ellipsoid((6, 62, 130), (52, 52, 140))
    lobes = OffsetShape(Union((right, left), blend_mm=22), 0.0, make_ripple(rng, 3, 90))
    return ClippedShape(
        lobes,
        within=(Cavity(3), BelowDiaphragm(trunk, 4)),
        without=(hollow, back, OffsetShape(right_kidney, 4), OffsetShape(gallbladder, 1.5)),
    )


def _spleen(
    rng: np.random.Generator, trunk: Trunk, left_kidney: Shape, stomach: Shape, k: float
) -> Shape:
    """A curved wedge at the left back, below the left dome."""
    body = Ellipsoid(
        _jittered_position(rng, (100, 20, 152), 3 * k),
        _jittered_radii(rng, (44, 58, 58), 0.88, 1.12),
        yaw=-0.3,
        pitch=0.25,
    )
    return ClippedShape(
        OffsetShape(body, 0.0, make_ripple(rng, 2.5, 70)),
        within=(Cavity(3), BelowDiaphragm(trunk, 4)),
        without=(OffsetShape(left_kidney, 4), OffsetShape(stomach, 5)),
    )


def _pancreas(rng: np.random.Generator, k: float) -> Shape:
    head, body = (
        _jittered_position(rng, (-22, -16, 84), 3 * k),
        _jittered_position(rng, (14, -26, 98), 3 * k),
    )
    return OffsetShape(
        Union((Capsule(head, body, 13, 9), Capsule(body, (62, 4, 122), 9, 7)), blend_mm=6),
        0.0,
        make_ripple(rng, 2, 25),
    )


def _aorta(rng: np.random.Generator) -> Shape:
    """Arch, descending part, bifurcation and iliac arteries."""
    r = rng.uniform(9.5, 12)
    path = [(-12, -34, 310), (-6, -20, 352), (14, 10, 356), (22, 36, 330), (20, 36, 260)]
    path += [(12, 22, 190), (8, 9, 110), (6, 6, 12)]
    parts: list[Shape] = [Capsule(a, b, r * 1.15 if a[2] > 200 else r) for a, b in pairwise(path)]
    for side in (-1, 1):
        knee, end = (side * 46.0, 8.0, -85.0), (side * 72.0, -50.0, -135.0)
        parts += [
            Capsule((6, 6, 12), knee, 6),
            Capsule(knee, end, 5.5),
            Capsule(end, (side * 78, -48, -400), 5.5),
        ]
    return Union(tuple(parts))


def _vein(rng: np.random.Generator) -> Shape:
    r = rng.uniform(9, 12.5)
    parts: list[Shape] = [
        Capsule((-16, 12, 5), (-18, 13, 120), r),
        Capsule((-18, 13, 120), (-20, 4, 222), r),
    ]
    for side in (-1, 1):
        knee, end = (side * 44.0, 20.0, -85.0), (side * 64.0, -42.0, -137.0)
        parts += [
            Capsule((-16, 12, 5), knee, 7),
            Capsule(knee, end, 6.5),
            Capsule(end, (side * 68, -36, -400), 6.5),
        ]
    return Union(tuple(parts))


def _liver_vessels(rng: np.random.Generator) -> Shape:
    """Hepatic veins that meet at the vena cava, and the portal vein with its first branches."""
    root, gate = (-24.0, 2.0, 188.0), (-26.0, -8.0, 112.0)
    veins = ((-112, 10, 150), (-82, -48, 146), (-10, -58, 160))
    branches = ((-96, 32, 118), (-100, -30, 104), (2, -46, 138))
    return Union(
        (
            Capsule((-8, -12, 92), gate, 7),
            *(Capsule(root, _jittered_position(rng, end, 8), 5, 2) for end in veins),
            *(Capsule(gate, _jittered_position(rng, end, 8), 6, 2) for end in branches),
        )
    )
