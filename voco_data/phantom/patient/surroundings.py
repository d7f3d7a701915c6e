"""What lies on and about a patient and hides no truth: arms, blankets, metal, oral contrast.

All of it is drawn below the solid organs and the bowel's walls, so label maps never depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voco_data.phantom.domains import ArmsKind, CouchKind, Domain
from voco_data.phantom.patient.points import F32, Bounds, Points
from voco_data.phantom.patient.shapes import (
    Capsule,
    ClippedShape,
    OffsetShape,
    Ripple,
    Shape,
    make_ripple,
)
from voco_data.phantom.patient.trunk import Couch, Trunk, Wall

_FAR_MM = 1000.0
METAL_HU = 3000.0


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape of one HU."""

    shape: Shape
    hu: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Things in the order in which they are drawn."""

    outside: tuple[Thing, ...] = ()
    """Drawn before the body, which covers them where they touch."""
    couch: tuple[Thing, ...] | None = None
    """None for the couch of the plain phantom."""
    inside: tuple[Thing, ...] = ()
    """Drawn over bones and vessels, below gut and organs."""
    streak_sources_mm: tuple[tuple[float, float], ...] = ()
    """(x, y) in the standard body from which streaks spread."""
    oral_contrast_hu: float | None = None
    """HU of the content of the stomach and of half of the gut; None for none."""


PLAIN = Surroundings()


@dataclass(frozen=True, slots=True)
class FlatCouch:
    """A flat plate under the back with two rails, or a plate with a cushion's upper side."""

    top_mm: float
    thickness_mm: float
    half_width_mm: float = 205.0

    def bounds(self) -> Bounds:
        """As long as any scan."""
        x, y = self.half_width_mm, self.top_mm
        return ((-x, y, -_FAR_MM), (x, y + self.thickness_mm, _FAR_MM))

    def distance(self, p: Points) -> F32:
        """A slab, cut at the sides."""
        half = np.float32(self.thickness_mm / 2)
        plate = np.abs(p.y - np.float32(self.top_mm) - half) - half
        slab: F32 = np.maximum(plate, np.abs(p.x) - np.float32(self.half_width_mm))
        return slab


@dataclass(frozen=True, slots=True)
class Blanket:
    """A thin sheet over front and sides of the body, with folds."""

    trunk: Trunk
    gap_mm: float
    thickness_mm: float
    folds: Ripple

    def bounds(self) -> Bounds:
        """Around the skin."""
        (x0, y0, z0), (x1, y1, z1) = Wall(self.trunk, self._reach_mm, fat=1).bounds()
        return ((x0, y0, z0), (x1, y1, z1))

    @property
    def _reach_mm(self) -> float:
        return self.gap_mm + self.thickness_mm + self.folds.height

    def distance(self, p: Points) -> F32:
        """A shell about the skin, open at the back."""
        away = Wall(self.trunk, self.gap_mm, fat=1).distance(p) + self.folds.field(p)
        sheet = np.abs(away) - np.float32(self.thickness_mm / 2)
        open_back: F32 = np.maximum(sheet, p.y - np.float32(55))
        return open_back


def make_surroundings(rng: np.random.Generator, trunk: Trunk, domain: Domain) -> Surroundings:
    """Draw what lies about a patient of `domain`."""
    arms = domain.arms[int(rng.integers(len(domain.arms)))]
    outside, sources = _arms(rng, trunk, arms)
    if rng.random() < domain.blanket_chance:
        outside += _blankets(rng, trunk)
    inside: list[Thing] = []
    if rng.random() < domain.metal_chance:
        metal, on_skin, origins = _metal(rng, trunk)
        inside += metal
        outside += on_skin
        sources += origins
    oral = rng.uniform(180, 420) if rng.random() < domain.oral_contrast_chance else None
    return Surroundings(
        outside=tuple(outside),
        couch=_couch(trunk, domain.couch, rng.uniform(*domain.couch_gap_mm)),
        inside=tuple(inside),
        streak_sources_mm=tuple(sources),
        oral_contrast_hu=oral,
    )


def _couch(trunk: Trunk, kind: CouchKind, gap_mm: float) -> tuple[Thing, ...]:
    top = trunk.half_depth_mm + gap_mm
    if kind == "trough":
        lower = OffsetShape(Couch(trunk, 4.0, gap_mm + 14), 0.0)
        return (Thing(Couch(trunk, 4.0, gap_mm), -120.0), Thing(lower, -350.0))
    if kind == "flat":
        plate = FlatCouch(top, 22.0)
        core = FlatCouch(top + 3, 16.0, 200.0)
        return (Thing(plate, 60.0), Thing(core, -880.0))
    cushion = FlatCouch(top - gap_mm, gap_mm + 2, 170.0)
    return (Thing(cushion, -930.0), Thing(FlatCouch(top, 5.0), 20.0))


def _arms(
    rng: np.random.Generator, trunk: Trunk, kind: ArmsKind
) -> tuple[list[Thing], list[tuple[float, float]]]:
    """Fore and upper arms beside the body, each with skin, muscle and bone."""
    sides = {"up": (), "down": (-1, 1), "one_down": (int(rng.choice([-1, 1])),)}[kind]
    things, sources = [], []
    for side in sides:
        x = side * (trunk.half_width_mm + rng.uniform(34, 58))
        y = rng.uniform(-45, 55)
        lean = side * rng.uniform(-0.05, 0.08)
        low, high = (x + lean * -500, y - 20, -500.0), (x + lean * 500, y + 20, 500.0)
        thick = rng.uniform(32, 44)
        bone = rng.uniform(9, 12)
        things += [
            Thing(Capsule(low, high, thick), -95.0),
            Thing(Capsule(low, high, thick - rng.uniform(5, 12)), 52.0),
            Thing(Capsule(low, high, bone), 950.0),
            Thing(Capsule(low, high, bone - 4), 150.0),
        ]
        sources.append((x, y))
    return things, sources


def _blankets(rng: np.random.Generator, trunk: Trunk) -> list[Thing]:
    return [
        Thing(
            Blanket(
                trunk,
                gap_mm=rng.uniform(8, 30),
                thickness_mm=rng.uniform(3, 7),
                folds=make_ripple(rng, rng.uniform(4, 14), rng.uniform(40, 120)),
            ),
            rng.uniform(-850, -250),
        )
        for _ in range(int(rng.integers(1, 4)))
    ]


def _metal(
    rng: np.random.Generator, trunk: Trunk
) -> tuple[list[Thing], list[Thing], list[tuple[float, float]]]:
    """Rods at the spine, clips about the pancreas, or wires and electrodes on the skin."""
    kind = str(rng.choice(["rods", "clips", "wires"]))
    if kind == "rods":
        low, high = -40.0, rng.uniform(60, 220)
        places = [(side * rng.uniform(16, 22), rng.uniform(80, 92)) for side in (-1, 1)]
        rods = [Thing(Capsule((x, y, low), (x, y, high), 3.2), METAL_HU) for x, y in places]
        return rods, [], places
    if kind == "clips":
        clips, places = [], []
        for _ in range(int(rng.integers(2, 6))):
            x, y, z = rng.uniform((-30, -30, 60), (50, 20, 130)).tolist()
            clips.append(Thing(Capsule((x, y, z), (x + 5, y + 3, z + 5), 1.6), METAL_HU))
            places.append((x, y))
        return clips, [], places[:1]
    wires = []
    skin = Wall(trunk, 1.5, fat=1)
    for _ in range(int(rng.integers(2, 5))):
        x = rng.uniform(-trunk.half_width_mm, trunk.half_width_mm)
        tube = Capsule((x, -120.0, -300.0), (x + rng.uniform(-60, 60), -120.0, 400.0), 60.0)
        shell = OffsetShape(skin, 2.0)
        wires.append(Thing(_on_skin(tube, shell, x), rng.uniform(500, 2500)))
    return [], wires, []


def _on_skin(tube: Capsule, shell: Shape, x: float) -> Shape:
    """A wire: the part of a thin upright sheet that lies on the front of the skin."""
    return ClippedShape(shell, within=(Capsule((x, -400.0, -300.0), (x, 0.0, -300.0), 3.0), tube))
