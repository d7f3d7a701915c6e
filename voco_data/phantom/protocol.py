"""Scan protocols: contrast phase, range, planes and noise of one scan, drawn at random."""

from __future__ import annotations

from typing import Literal

import numpy as np

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
    included.
    """
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


def make_scan(
    rng: np.random.Generator,
    patient: PatientModel,
    *,
    matrix: int,
    slices: int,
    coverage: Coverage,
    phase: PhaseName,
) -> Scan:
    """A scan that covers `coverage` of `patient`, with `matrix` pixels along rows and columns."""
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
    return Scan(
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
