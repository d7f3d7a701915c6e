"""Harder phantoms are an instrument for localisation: a box that sees no image is far off."""

from __future__ import annotations

import numpy as np

from voco_data.phantom.domains import DOMAINS
from voco_data.phantom.patient.model import organ_extents
from voco_data.phantom.patient.pose import Scan
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_models.localisation.boundary_errors import (
    Extent,
    boundary_errors,
    mean_boxes,
    place_in,
    summarise_errors,
)

PATIENTS, LEARNT_FROM = 60, 30


def test_a_mean_box_misses_the_boundaries_by_15_mm() -> None:
    """The places are those of the geometry, in fractions of the scan. No image is made."""
    spec = CohortSpec(patients=PATIENTS, domains=tuple(DOMAINS), seed=11)
    organs, scans = [], []
    for number in range(PATIENTS):
        patient = plan_patient(spec, number)
        organs.append(
            {
                name: Extent(extent.low_mm[::-1], extent.high_mm[::-1])
                for name, extent in organ_extents(patient.model).items()
            }
        )
        scans.append(extent_of(patient.series[0].scan))
    boxes = mean_boxes(organs[:LEARNT_FROM], scans[:LEARNT_FROM])
    placed = [
        {name: place_in(scan, box) for name, box in boxes.items()} for scan in scans[LEARNT_FROM:]
    ]
    summary = summarise_errors(boundary_errors(placed, organs[LEARNT_FROM:], scans[LEARNT_FROM:]))
    assert summary["all"]["faces"] > 500
    assert summary["all"]["median_mm"] >= 15


def extent_of(scan: Scan) -> Extent:
    """From the outer edges of the first voxels to those of the last, (z, y, x) in mm."""
    axes = (scan.z_mm, scan.y_mm, scan.x_mm)
    halves = [float(axis[1] - axis[0]) / 2 for axis in axes]
    low = np.array([axis[0] for axis in axes]) - halves
    high = np.array([axis[-1] for axis in axes]) + halves
    return Extent(tuple(low.tolist()), tuple(high.tolist()))
