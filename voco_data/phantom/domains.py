"""Domains of made-up scans: named values of scanner, protocol, patients and what lies about them.

Real archives differ in ways that have nothing to do with where an organ is: reconstruction, noise,
couch, arms, build, contrast, field of view. A cohort with domains has such differences, so that
features of an untrained network do not tell places apart, as they do on the plain phantom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from voco_data.errors import InputError
from voco_data.phantom.patient.pose import PhaseName, Scanner

Range = tuple[float, float]
"""Lowest and highest draw."""
CouchKind = Literal["trough", "flat", "cushioned"]
ArmsKind = Literal["up", "down", "one_down"]


@dataclass(frozen=True, slots=True)
class Domain:
    """What the scans of one site have in common. Ranges are drawn from uniformly."""

    name: str
    scanner: Scanner
    couch: CouchKind
    couch_gap_mm: Range
    """From the back to the couch."""
    noise_hu: Range
    phases: tuple[PhaseName, ...]
    """Equally likely. In a plain scan an injury need not be darker than its organ."""
    spacing_mm: Range
    """Gap between planes, also their nominal thickness."""
    field_of_view: Range
    """Width of the image over the width of the body, without arms."""
    off_centre_mm: Range
    """Distance of the body's axis from the middle of the image, to a random side."""
    turn_deg: Range
    """In-plane turn of the patient, to a random side."""
    fat_mm: Range
    """Fat under the skin at the belly's height."""
    width_scale: Range
    """Factor of the width of the body; its depth varies the other way by half as much."""
    arms: tuple[ArmsKind, ...]
    """Equally likely."""
    blanket_chance: float
    """Chance of a blanket or folded clothes over the body."""
    metal_chance: float
    """Chance of metal: rods at the spine, clips, or wires and electrodes on the skin."""
    oral_contrast_chance: float
    gas_chance: float
    """Chance that a loop of small bowel holds gas."""
    looseness: float
    """Factor of the spread of organs about their places; 1 is that of the plain phantom."""


DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain(
            name="trauma",
            scanner=Scanner(blur_mm=0.6, grain_mm=0.9, streaks_hu=34, cupping_hu=6),
            couch="trough",
            couch_gap_mm=(3, 25),
            noise_hu=(16, 28),
            phases=("arterial", "portal"),
            spacing_mm=(2.5, 5.0),
            field_of_view=(1.3, 1.7),
            off_centre_mm=(5, 35),
            turn_deg=(0, 12),
            fat_mm=(8, 40),
            width_scale=(0.88, 1.12),
            arms=("down", "down", "one_down"),
            blanket_chance=0.7,
            metal_chance=0.6,
            oral_contrast_chance=0.0,
            gas_chance=0.3,
            looseness=1.8,
        ),
        Domain(
            name="oncology",
            scanner=Scanner(blur_mm=1.0, grain_mm=1.6),
            couch="trough",
            couch_gap_mm=(2, 10),
            noise_hu=(7, 12),
            phases=("portal", "arterial", "plain"),
            spacing_mm=(2.5, 5.0),
            field_of_view=(1.05, 1.3),
            off_centre_mm=(0, 15),
            turn_deg=(0, 8),
            fat_mm=(6, 32),
            width_scale=(0.85, 1.1),
            arms=("up",),
            blanket_chance=0.3,
            metal_chance=0.35,
            oral_contrast_chance=0.8,
            gas_chance=0.15,
            looseness=1.7,
        ),
        Domain(
            name="screening",
            scanner=Scanner(
                blur_mm=0.5, sharpening=1.2, grain_mm=0.6, streaks_hu=18, round_field=True
            ),
            couch="flat",
            couch_gap_mm=(8, 30),
            noise_hu=(30, 48),
            phases=("plain",),
            spacing_mm=(2.5, 5.0),
            field_of_view=(1.02, 1.2),
            off_centre_mm=(0, 25),
            turn_deg=(0, 10),
            fat_mm=(20, 55),
            width_scale=(0.95, 1.2),
            arms=("up", "one_down"),
            blanket_chance=0.8,
            metal_chance=0.2,
            oral_contrast_chance=0.0,
            gas_chance=0.4,
            looseness=1.7,
        ),
        Domain(
            name="nuclear",
            scanner=Scanner(blur_mm=2.4, grain_mm=3.0, streaks_hu=22, cupping_hu=14),
            couch="cushioned",
            couch_gap_mm=(15, 45),
            noise_hu=(14, 24),
            phases=("plain", "portal"),
            spacing_mm=(4.0, 6.0),
            field_of_view=(1.6, 2.1),
            off_centre_mm=(0, 30),
            turn_deg=(0, 10),
            fat_mm=(10, 50),
            width_scale=(0.88, 1.18),
            arms=("down", "up", "one_down"),
            blanket_chance=0.9,
            metal_chance=0.3,
            oral_contrast_chance=0.5,
            gas_chance=0.25,
            looseness=1.8,
        ),
        Domain(
            name="slender",
            scanner=Scanner(blur_mm=0.5, sharpening=0.6, grain_mm=0.8),
            couch="flat",
            couch_gap_mm=(2, 15),
            noise_hu=(10, 18),
            phases=("arterial", "portal"),
            spacing_mm=(2.0, 3.5),
            field_of_view=(1.02, 1.25),
            off_centre_mm=(0, 20),
            turn_deg=(2, 14),
            fat_mm=(3, 12),
            width_scale=(0.82, 1.0),
            arms=("up", "down"),
            blanket_chance=0.6,
            metal_chance=0.25,
            oral_contrast_chance=0.3,
            gas_chance=0.5,
            looseness=1.8,
        ),
    )
}
"""The built-in domains by name."""


def find_domains(names: Sequence[str]) -> list[Domain]:
    """The domains of `names`. Raises InputError for an unknown or a repeated name."""
    unknown = [name for name in names if name not in DOMAINS]
    if unknown or len(set(names)) < len(names):
        raise InputError(
            f"cohort: expected different domains out of {', '.join(DOMAINS)}, "
            f"got {', '.join(map(str, names))}"
        )
    return [DOMAINS[name] for name in names]
