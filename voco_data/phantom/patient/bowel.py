"""Colon and small bowel: tubes with a wall and a lumen of fluid, stool and gas."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from voco_data.phantom.patient.points import F32, Points, Vector
from voco_data.phantom.patient.shapes import Capsule, ClippedShape, Ripple, Shape, make_ripple
from voco_data.phantom.patient.trunk import Cavity

WALL_MM = 3.0
GAS_HU = -900.0
GAS_CHANCE = 0.15
"""Chance that a loop of small bowel holds gas."""


@dataclass(frozen=True, slots=True)
class Loop:
    """One piece of gut."""

    tube: Capsule
    gas_level: float
    """Where the gas ends, from -1 (none) to 1 (all of it): the patient is supine, gas is in
    front."""
    content_hu: float
    stool: Ripple
    """Texture of the content, in HU."""

    @property
    def outer(self) -> Shape:
        """Wall and lumen, inside the cavity."""
        return ClippedShape(self.tube, within=(Cavity(2),))

    def lumen_hu(self, p: Points, _distance: F32) -> F32:
        """Gas in front of the level, content behind it."""
        middle = (self.tube.start[1] + self.tube.end[1]) / 2
        level = middle + self.gas_level * self.tube.radius
        gas = np.clip((np.float32(level) - p.y) / 3 + np.float32(0.5), 0, 1)
        content = np.float32(self.content_hu) + self.stool.field(p)
        return content + gas * (np.float32(GAS_HU) - content)


_COLON: tuple[Vector, ...] = (
    (-84, 0, -62),
    (-90, 6, -10),
    (-92, 2, 38),
    (-62, -50, 44),
    (-20, -66, 30),
    (30, -66, 34),
    (72, -44, 66),
    (96, 12, 92),
    (96, 16, 40),
    (92, 14, -10),
    (82, 10, -62),
    (44, -14, -84),
    (18, 16, -96),
    (4, 36, -130),
)


def make_colon(rng: np.random.Generator, looseness: float = 1.0) -> tuple[Loop, ...]:
    """From the caecum to the rectum; `looseness` is a factor of the spread about its path."""
    k = looseness
    path = [
        (x + k * rng.uniform(-5, 5), y + k * rng.uniform(-4, 4), z + k * rng.uniform(-7, 7))
        for x, y, z in _COLON
    ]
    width = rng.uniform(0.85, 1.15)
    loops = []
    for number, (a, b) in enumerate(pairwise(path)):
        radius = width * (rng.uniform(17, 23) if number < 8 else rng.uniform(12, 17))
        loops.append(
            Loop(
                Capsule(a, b, radius),
                gas_level=float(rng.choice([-1.2, -0.5, -0.1, 0.3], p=[0.3, 0.25, 0.25, 0.2])),
                content_hu=rng.uniform(10, 45),
                stool=make_ripple(rng, rng.uniform(20, 70), 14),
            )
        )
    return tuple(loops)


def make_small_bowel(
    rng: np.random.Generator, loops: int = 26, gas_chance: float = GAS_CHANCE
) -> tuple[Loop, ...]:
    """`loops` short loops in the middle of the belly; each holds gas with `gas_chance`."""
    small_bowel = []
    for _ in range(loops):
        centre = rng.uniform((-70, -62, -95), (72, -6, 62))
        direction = rng.normal(size=3) * (1, 0.5, 0.6)
        half = direction / np.linalg.norm(direction) * rng.uniform(14, 30)
        small_bowel.append(
            Loop(
                Capsule(_point(centre - half), _point(centre + half), rng.uniform(9.5, 13)),
                gas_level=float(rng.choice([-1.2, -0.3], p=[1 - gas_chance, gas_chance])),
                content_hu=rng.uniform(8, 35),
                stool=make_ripple(rng, 8, 18),
            )
        )
    return tuple(small_bowel)


def _point(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)
