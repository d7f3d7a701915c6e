"""One synthetic patient: sizes, pose, organs and injuries, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from voco_data.phantom.domains import Domain
from voco_data.phantom.patient.bowel import GAS_CHANCE, Loop, make_colon, make_small_bowel
from voco_data.phantom.patient.injury import (
    ORGAN_GROUPS,
    Bleed,
    BowelInjury,
    Grade,
    Injury,
    OrganGroup,
    make_bleed,
    make_bowel_injury,
    make_injury,
)
from voco_data.phantom.patient.points import Vector, lattice
from voco_data.phantom.patient.pose import Pose, Scan
from voco_data.phantom.patient.skeleton import ISCHIUM_BOTTOM_MM
from voco_data.phantom.patient.surroundings import PLAIN, Surroundings, make_surroundings
from voco_data.phantom.patient.trunk import Trunk
from voco_data.phantom.patient.viscera import SOLID_ORGANS, Viscera, make_viscera

BOWEL_PREVALENCE = 0.05
BLEED_PREVALENCE = 0.03
BLEED_PREVALENCE_HIGH = 0.3
"""Chance of a bleed when an organ has a high grade."""
MAX_SHIFT_HU = 8.0
"""Largest difference of a patient's parenchyma from the enhancement of its phase."""
EXTENT_STEP_MM = 3.0
"""Step of the lattice on which extents are measured, in the standard body."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Lowest and highest corner (x, y, z) of an organ in the scanner's LPS frame, in mm."""

    low_mm: Vector
    high_mm: Vector


@dataclass(frozen=True, slots=True)
class PatientModel:
    """The anatomy and the injuries of a patient, which all its scans show."""

    sex: Literal["F", "M"]
    age: int
    pose: Pose
    trunk: Trunk
    viscera: Viscera
    colon: tuple[Loop, ...]
    small_bowel: tuple[Loop, ...]
    parenchyma_hu: Vector
    """Differences of this patient's kidneys, liver and spleen from the phase, in HU."""
    injuries: tuple[Injury, ...]
    bowel_injury: BowelInjury | None
    bleed: Bleed | None
    surroundings: Surroundings = PLAIN

    def grade(self, organ: OrganGroup) -> Literal["healthy", "low", "high"]:
        """The class of an organ."""
        for injury in self.injuries:
            if injury.organ == organ:
                return injury.grade
        return "healthy"

    @property
    def any_injury(self) -> bool:
        """Whether there is an injury or a bleed."""
        return bool(self.injuries or self.bowel_injury or self.bleed)


def make_patient(
    rng: np.random.Generator, *, injury_prevalence: float = 0.35, domain: Domain | None = None
) -> PatientModel:
    """Draw a patient. Each organ is injured with `injury_prevalence`, low or high alike.

    A patient of a `domain` has its build, pose, looseness of organs and surroundings.
    """
    looseness = 1.0 if domain is None else domain.looseness
    trunk = Trunk(
        fat_mm=rng.uniform(*((11, 36) if domain is None else domain.fat_mm)),
        right_dome_mm=rng.uniform(198, 214),
        left_dome_mm=rng.uniform(186, 200),
        mediastinum_mm=rng.uniform(32, 40),
    )
    pose = _make_pose(rng)
    viscera = make_viscera(rng, trunk, looseness)
    gas_chance = GAS_CHANCE if domain is None else domain.gas_chance
    colon = make_colon(rng, looseness)
    small_bowel = make_small_bowel(rng, gas_chance=gas_chance)
    injuries = _make_injuries(rng, viscera, trunk, injury_prevalence)
    hurt_bowel = rng.random() < BOWEL_PREVALENCE
    shifts = np.clip(rng.normal(0, 4, size=3), -MAX_SHIFT_HU, MAX_SHIFT_HU)
    kidney, liver, spleen = (float(v) for v in shifts)
    patient = PatientModel(
        sex="F" if rng.random() < 0.5 else "M",
        age=int(rng.integers(18, 86)),
        pose=pose,
        trunk=trunk,
        viscera=viscera,
        colon=colon,
        small_bowel=small_bowel,
        parenchyma_hu=(kidney, liver, spleen),
        injuries=injuries,
        bowel_injury=make_bowel_injury(rng, small_bowel) if hurt_bowel else None,
        bleed=_draw_bleed(rng, injuries),
    )
    return patient if domain is None else _in_domain(rng, patient, domain)


def _in_domain(rng: np.random.Generator, patient: PatientModel, domain: Domain) -> PatientModel:
    """The patient with the build, the turn and the surroundings of a domain."""
    width = rng.uniform(*domain.width_scale)
    x, y, z = patient.pose.scale
    turn = np.deg2rad(rng.uniform(*domain.turn_deg)) * rng.choice([-1, 1])
    pose = replace(
        patient.pose,
        scale=(x * width, y * width**-0.5, z),
        turn_rad=float(turn),
    )
    surroundings = make_surroundings(rng, patient.trunk, domain)
    oral = surroundings.oral_contrast_hu
    return replace(
        patient,
        pose=pose,
        surroundings=surroundings,
        colon=_with_contrast(rng, patient.colon, oral),
        small_bowel=_with_contrast(rng, patient.small_bowel, oral),
    )


def _with_contrast(
    rng: np.random.Generator, loops: tuple[Loop, ...], hu: float | None
) -> tuple[Loop, ...]:
    """The loops, half of them with oral contrast of `hu`; all as they are if it is None."""
    if hu is None:
        return loops
    return tuple(replace(p, content_hu=hu) if rng.random() < 0.5 else p for p in loops)


def _make_pose(rng: np.random.Generator) -> Pose:
    size = rng.normal(1.0, 0.05)
    x, y, z = (float(np.clip(size * rng.normal(1.0, 0.025), 0.85, 1.15)) for _ in range(3))
    return Pose(
        scale=(x, y, z),
        turn_rad=float(rng.normal(0, 0.035)),
        shift_mm=(rng.uniform(-12, 12), rng.uniform(-15, 15), rng.uniform(-900, 200)),
    )


def _make_injuries(
    rng: np.random.Generator, viscera: Viscera, trunk: Trunk, prevalence: float
) -> tuple[Injury, ...]:
    injuries = []
    for organ in ORGAN_GROUPS:
        if rng.random() >= prevalence:
            continue
        grade: Grade = "high" if rng.random() < 0.5 else "low"
        solid = str(rng.choice(["left_kidney", "right_kidney"])) if organ == "kidney" else organ
        shape = viscera.solid(solid)
        injuries.append(make_injury(rng, organ, solid, shape, trunk, grade))
    return tuple(injuries)


def _draw_bleed(rng: np.random.Generator, injuries: tuple[Injury, ...]) -> Bleed | None:
    """A bleed in an organ of grade high or, rarely, among the bowel; or None."""
    high = [injury for injury in injuries if injury.grade == "high"]
    chance = BLEED_PREVALENCE_HIGH if high else BLEED_PREVALENCE
    if rng.random() >= chance:
        return None
    if high:
        return make_bleed(rng, high[int(rng.integers(len(high)))].centre)
    return make_bleed(rng, (rng.uniform(-50, 50), rng.uniform(-50, -10), rng.uniform(-60, 40)))


def organ_extents(patient: PatientModel) -> dict[str, Extent]:
    """Extent of each of `SOLID_ORGANS`, whatever is scanned, to within `EXTENT_STEP_MM`."""
    extents = {}
    for name in SOLID_ORGANS:
        shape = patient.viscera.solid(name)
        points = lattice(shape.bounds(), EXTENT_STEP_MM)
        hit = shape.distance(points) < 0
        z, y, x = (np.flatnonzero(hit.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
        xs, ys, zs = points.x[0, 0, x], points.y[0, y, 0], points.z[z, 0, 0]
        low = (float(xs[0]), float(ys[0]), float(zs[0]))
        high = (float(xs[-1]), float(ys[-1]), float(zs[-1]))
        extents[name] = Extent(*patient.pose.box_to_scanner((low, high)))
    return extents


def abdomen_range_mm(patient: PatientModel) -> tuple[float, float]:
    """Lowest and highest z (LPS, mm) of the abdomen and pelvis of a patient.

    Our definition: from the bottom of the ischial tuberosities, the floor of the pelvis, to the
    top of liver or spleen, whichever is higher. That holds all solid organs and the whole bowel.
    A scan may show only a part of it, see `scanned_abdomen_mm`.
    """
    extents = organ_extents(patient)
    top = max(extents["liver"].high_mm[2], extents["spleen"].high_mm[2])
    bottom = patient.pose.to_scanner((0.0, 0.0, ISCHIUM_BOTTOM_MM))[2]
    return bottom, top


def scanned_abdomen_mm(patient: PatientModel, scan: Scan) -> tuple[float, float]:
    """The part of `abdomen_range_mm` that lies between the first and the last plane of a scan."""
    bottom, top = abdomen_range_mm(patient)
    low, high = float(scan.z_mm[0]), float(scan.z_mm[-1])
    return max(bottom, low), min(top, high)
