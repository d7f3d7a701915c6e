"""Scan protocols: contrast phase, range, planes and noise of one scan, drawn at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from voco_data.phantom.domains import Domain
from voco_data.phantom.patient.model import PatientModel
from voco_data.phantom.patient.pose import Phase, PhaseName, Scan, nearest_128th

Coverage = Literal["abdomen", "chest_to_thigh", "short"]
"""A `short` scan ends inside a solid organ."""
FULL_RANGE_MM = 660.0
"""Length of a chest-to-thigh scan of a body of scale 1; `slices` is nominal for it."""
MIN_SLICES = 12
_ENDS: dict[Coverage, tuple[tuple[float, float], tuple[float, float]]] = {
    "abdomen": ((-240, -195), (225, 275)),
    "chest_to_thigh": ((-270, -215), (370, 425)),
    "short": ((-215, -195), (120, 160)),
}
"""Lowest and highest draw of the lower and of the upper end (mm in the standard body)."""


def make_phase(rng: np.random.Generator, name: PhaseName) -> Phase:
    """The enhancement of the tissues in a phase.

    Parenchyma is at least 50 HU brighter than any injury of a solid organ, a patient's own shift
    included; but not in the phase `plain`, where there is no enhancement.
    """
    if name == "plain":
        return _plain(rng)
    liver = float(np.clip(rng.normal(110 if name == "arterial" else 119, 5), 104, 132))
    if name == "arterial":
        return Phase(
            name=name,
            aorta=rng.uniform(240, 340),
            vein=rng.uniform(70, 110),
            cortex=rng.uniform(165, 200),
            medulla=rng.uniform(115, 130),
            liver=liver,
            liver_vessel=liver + rng.uniform(12, 30),
            spleen=rng.uniform(120, 145),
            bowel_wall=rng.uniform(80, 105),
            heart=rng.uniform(180, 240),
            muscle=rng.uniform(52, 62),
        )
    return Phase(
        name=name,
        aorta=rng.uniform(130, 180),
        vein=rng.uniform(120, 160),
        cortex=rng.uniform(175, 205),
        medulla=rng.uniform(150, 175),
        liver=liver,
        liver_vessel=liver + rng.uniform(35, 55),
        spleen=rng.uniform(112, 132),
        bowel_wall=rng.uniform(75, 100),
        heart=rng.uniform(120, 160),
        muscle=rng.uniform(55, 65),
    )


def _plain(rng: np.random.Generator) -> Phase:
    """Tissues without contrast medium: all soft tissue is within 40 HU."""
    blood = rng.uniform(36, 46)
    liver = rng.uniform(48, 66)
    return Phase(
        name="plain",
        aorta=blood,
        vein=blood,
        cortex=rng.uniform(28, 38),
        medulla=rng.uniform(26, 34),
        liver=liver,
        liver_vessel=blood,
        spleen=rng.uniform(42, 52),
        bowel_wall=rng.uniform(32, 44),
        heart=blood + 2,
        muscle=rng.uniform(48, 58),
    )


def make_scan(
    rng: np.random.Generator,
    patient: PatientModel,
    *,
    matrix: int,
    slices: int,
    coverage: Coverage,
    phase: PhaseName,
    domain: Domain | None = None,
) -> Scan:
    """A scan that covers `coverage` of `patient`, with `matrix` pixels along rows and columns.

    In a `domain`, the scanner, the spacing of planes, the field of view, the place of the body and
    the noise are the domain's, and `slices` is not used.
    """
    pose, trunk = patient.pose, patient.trunk
    bottom, top = (pose.to_scanner((0.0, 0.0, rng.uniform(*ends)))[2] for ends in _ENDS[coverage])
    fineness = (0.85, 1.2) if coverage == "chest_to_thigh" else (0.65, 0.95)
    nominal = FULL_RANGE_MM * pose.scale[2] / slices
    spacing = nearest_128th(min(nominal * rng.uniform(*fineness), (top - bottom) / MIN_SLICES))
    width = 2 * trunk.half_width_mm * pose.scale[0]
    pixel = nearest_128th(width * rng.uniform(1.06, 1.25) / matrix)
    half = pixel * (matrix - 1) / 2
    # The table is low: the body is a little towards the front of the image.
    x0, y0 = -half + rng.uniform(-6, 6), -half + pose.shift_mm[1] + rng.uniform(5, 20)
    scan = Scan(
        first_z_mm=nearest_128th(bottom),
        spacing_mm=spacing,
        slices=int((top - bottom) / spacing) + 1,
        pixel_mm=pixel,
        rows=matrix,
        columns=matrix,
        corner_mm=(nearest_128th(x0), nearest_128th(y0)),
        phase=make_phase(rng, phase),
        noise_hu=rng.uniform(9, 15),
        offset_hu=float(rng.normal(0, 3)),
        noise_seed=int(rng.integers(2**63)),
    )
    return scan if domain is None else _in_domain(rng, scan, patient, domain, top)


def _in_domain(
    rng: np.random.Generator, scan: Scan, patient: PatientModel, domain: Domain, top_mm: float
) -> Scan:
    """The scan as the site of `domain` makes it, up to `top_mm`."""
    pose = patient.pose
    spacing = nearest_128th(
        min(rng.uniform(*domain.spacing_mm), (top_mm - scan.first_z_mm) / MIN_SLICES)
    )
    width = 2 * patient.trunk.half_width_mm * pose.scale[0]
    pixel = nearest_128th(width * rng.uniform(*domain.field_of_view) / scan.columns)
    half = pixel * (scan.columns - 1) / 2
    away = [rng.uniform(*domain.off_centre_mm) * rng.choice([-1, 1]) for _ in range(2)]
    x0, y0 = (-half + pose.shift_mm[axis] + float(away[axis]) for axis in range(2))
    return replace(
        scan,
        spacing_mm=spacing,
        slices=int((top_mm - scan.first_z_mm) / spacing) + 1,
        pixel_mm=pixel,
        corner_mm=(nearest_128th(x0), nearest_128th(y0)),
        noise_hu=rng.uniform(*domain.noise_hu),
        scanner=domain.scanner,
    )
