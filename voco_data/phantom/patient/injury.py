"""Injuries: tears and haematomas of solid organs, injured bowel, bleeding.

The grade of a solid organ is the injured share of its volume:

    low    a few branching tears and a small clot, 12 to 18 % of the organ
    high   large clots and tears, 35 to 55 % of the organ, and blood around it

The share of a kidney is that of the injured one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voco_data.phantom.patient.bowel import Loop
from voco_data.phantom.patient.points import F32, Points, Vector, lattice
from voco_data.phantom.patient.shapes import (
    ClippedShape,
    Disc,
    Ellipsoid,
    OffsetShape,
    Shape,
    Union,
    make_ripple,
)
from voco_data.phantom.patient.trunk import BelowDiaphragm, Cavity, Trunk

Grade = Literal["low", "high"]
OrganGroup = Literal["kidney", "liver", "spleen"]
ORGAN_GROUPS: tuple[OrganGroup, ...] = ("kidney", "liver", "spleen")
GRADE_SHARES: dict[Grade, tuple[float, float]] = {"low": (0.12, 0.18), "high": (0.35, 0.55)}
"""Lowest and highest share of the organ's volume, by grade."""
LATTICE_MM = 3.0
"""Step of the lattice on which shares are set."""


@dataclass(frozen=True, slots=True)
class Injury:
    """One injured organ."""

    organ: OrganGroup
    solid: str
    """Which of `SOLID_ORGANS`: a kidney has a side."""
    grade: Grade
    share: float
    """Injured share of the solid's volume."""
    lesion: Shape
    """Tears and clots inside the solid."""
    pool: Shape | None
    """Blood around the organ; goes below the other organs."""
    centre: Vector
    hu: float


@dataclass(frozen=True, slots=True)
class BowelInjury:
    """Loops with a thick wall and free gas under the front of the belly."""

    thick: tuple[int, ...]
    """Indices of small-bowel loops."""
    thickening_mm: float
    gas: Shape


@dataclass(frozen=True, slots=True)
class Bleed:
    """Active extravasation: contrast medium outside the vessels."""

    blobs: Shape
    extra_hu: float
    """How much brighter than the aorta, or than 150 HU when the aorta is darker."""


def make_injury(
    rng: np.random.Generator,
    organ: OrganGroup,
    solid: str,
    shape: Shape,
    trunk: Trunk,
    grade: Grade,
) -> Injury:
    """Draw tears and clots, then open them until the share of the organ is the grade's.

    The share is set with the quantile of the distance to tears and clots over the organ's lattice
    points, so it is exact there.
    """
    points = lattice(shape.bounds(), LATTICE_MM)
    inside, depth = _points_inside(shape, points)
    size = float(len(depth)) ** (1 / 3) * LATTICE_MM
    share = rng.uniform(*GRADE_SHARES[grade])
    centre = _pick_site(rng, inside, depth)
    seeds = _make_seeds(rng, inside, depth, centre, size, grade)
    ripple = make_ripple(rng, 0.035 * size, 0.35 * size)
    distances = OffsetShape(seeds, 0.0, ripple).distance(points)
    reach = float(np.quantile(distances[shape.distance(points) < 0], share))
    lesion = ClippedShape(OffsetShape(seeds, reach, ripple), within=(shape,))
    return Injury(
        organ=organ,
        solid=solid,
        grade=grade,
        share=share,
        lesion=lesion,
        pool=_make_blood_pool(rng, shape, trunk, centre, size) if grade == "high" else None,
        centre=centre,
        hu=rng.uniform(34, 42 if organ == "liver" else 46),
    )


def _points_inside(shape: Shape, points: Points) -> tuple[NDArray[np.float64], F32]:
    """Positions (N, 3) and depths (N,) of the lattice points inside a shape."""
    distance = shape.distance(points)
    hit = distance < 0
    position = [np.broadcast_to(axis, hit.shape)[hit] for axis in (points.x, points.y, points.z)]
    return np.stack(position, axis=1).astype(np.float64), -distance[hit]


def _pick_site(rng: np.random.Generator, inside: NDArray[np.float64], depth: F32) -> Vector:
    """A random point of middle depth, between capsule and core."""
    ranked = np.argsort(depth, kind="stable")
    chosen = ranked[int(rng.uniform(0.3, 0.8) * len(ranked))]
    x, y, z = (float(v) for v in inside[chosen])
    return (x, y, z)


def _make_seeds(
    rng: np.random.Generator,
    inside: NDArray[np.float64],
    depth: F32,
    centre: Vector,
    size: float,
    grade: Grade,
) -> Shape:
    """Plates through one point, like branches, and balls where blood collects."""
    tears = int(rng.integers(2, 4))
    radius = rng.uniform(0.28, 0.42) * size
    parts: list[Shape] = [Disc(centre, _tear_normal(rng), radius) for _ in range(tears)]
    if grade == "low":
        ball = rng.uniform(0.08, 0.14) * size
        parts.append(Ellipsoid(centre, (ball, ball, ball)))
        return Union(tuple(parts))
    for ball_centre in (centre, _pick_site(rng, inside, depth)):
        a, b, c = (float(r) for r in rng.uniform(0.2, 0.34, size=3) * size)
        parts.append(Ellipsoid(ball_centre, (a, b, c)))
    return Union(tuple(parts), blend_mm=0.08 * size)


def _tear_normal(rng: np.random.Generator) -> Vector:
    """Mostly level, so that tears are lines on axial pictures."""
    normal = rng.normal(size=3) * (1, 1, 0.35)
    x, y, z = (float(v) for v in normal / np.linalg.norm(normal))
    return (x, y, z)


def _make_blood_pool(
    rng: np.random.Generator, shape: Shape, trunk: Trunk, centre: Vector, size: float
) -> Shape:
    """A layer of blood on the organ's surface near the injury."""
    reach = rng.uniform(0.8, 1.0) * size
    layer = OffsetShape(shape, rng.uniform(8, 13), make_ripple(rng, 3, 45))
    near = Ellipsoid(centre, (reach, reach, reach))
    return ClippedShape(layer, within=(near, Cavity(0), BelowDiaphragm(trunk, 1)))


def make_bowel_injury(rng: np.random.Generator, small_bowel: tuple[Loop, ...]) -> BowelInjury:
    """Thicken three neighbouring loops and free some gas."""
    first = int(rng.integers(len(small_bowel)))
    middles = np.array([np.add(loop.tube.start, loop.tube.end) / 2 for loop in small_bowel])
    order = np.argsort(np.linalg.norm(middles - middles[first], axis=1), kind="stable")
    gas = Ellipsoid((rng.uniform(-25, 25), -78, rng.uniform(40, 90)), (42, 12, 34))
    return BowelInjury(
        thick=tuple(int(i) for i in order[:3]),
        thickening_mm=rng.uniform(4, 6),
        gas=ClippedShape(gas, within=(Cavity(2),)),
    )


def make_bleed(rng: np.random.Generator, centre: Vector) -> Bleed:
    """A few bright blobs about `centre`."""
    blobs: list[Shape] = []
    for _ in range(int(rng.integers(2, 5))):
        x, y, z = (c + rng.uniform(-9, 9) for c in centre)
        radius = rng.uniform(4.5, 8)
        blobs.append(Ellipsoid((x, y, z), (radius, radius, radius * 1.3)))
    return Bleed(Union(tuple(blobs), blend_mm=3), extra_hu=rng.uniform(60, 100))
