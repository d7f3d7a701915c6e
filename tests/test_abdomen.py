"""The box against the phantom's geometry, and against shapes with hand-known edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from voco_data.abdomen import find_box
from voco_data.dicom.series import read_series
from voco_data.gaps import GapPolicy
from voco_data.phantom.anatomy import scanned_abdomen_mm
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_data.phantom.render import acquire, render

NONE = (0.0, 0.0, 0.0)
TOP_CUT_MM = 6.0
"""A dome is a cap: this far below its very top, it is a few square centimetres."""


def trunk(shape: tuple[int, int, int] = (40, 90, 120)) -> npt.NDArray[np.int16]:
    """A water ellipse, 4 mm voxels, 240 mm wide and 160 mm deep, centred in air."""
    _, y, x = np.ogrid[[slice(n) for n in shape]]
    inside = ((y - 44.5) / 20) ** 2 + ((x - 59.5) / 30) ** 2 < 1
    return np.broadcast_to(np.where(inside, 30, -1000), shape).astype(np.int16)


def test_body_box_is_the_ellipse() -> None:
    box = find_box(trunk(), (5.0, 4.0, 4.0), crop="body", margin_mm=NONE)
    assert box.start[0] == 0
    assert box.stop[0] == 40
    assert np.abs(np.subtract(box.start[1:], (25, 30))).max() <= 1
    assert np.abs(np.subtract(box.stop[1:], (65, 90))).max() <= 1


def test_the_couch_is_not_body() -> None:
    hu = trunk()
    hu[:, 70:72, 10:110] = 200  # a plate of 8 mm, clear of the back
    hu[:, 65:70, 59] = 100  # and a cable that joins them
    box = find_box(hu, (5.0, 4.0, 4.0), crop="body", margin_mm=NONE)
    assert box.stop[1] <= 67


def test_the_margin_is_in_millimetres_and_ends_at_the_scan() -> None:
    plain = find_box(trunk(), (5.0, 4.0, 4.0), crop="body", margin_mm=NONE)
    wide = find_box(trunk(), (5.0, 4.0, 4.0), crop="body", margin_mm=(10.0, 8.0, 400.0))
    assert wide.start == (0, plain.start[1] - 2, 0)
    assert wide.stop == (40, plain.stop[1] + 2, 120)


def test_air_alone_gives_the_whole_volume_without_confidence() -> None:
    air = np.full((9, 20, 20), -1000, np.int16)
    box = find_box(air, (5.0, 4.0, 4.0), crop="abdomen", margin_mm=NONE)
    assert (box.start, box.stop, box.confidence) == ((0, 0, 0), (9, 20, 20), 0.0)


def test_a_chest_alone_is_a_fallback_with_low_confidence() -> None:
    hu = trunk()
    hu[:, 35:55, 36:54] = -850
    hu[:, 35:55, 66:84] = -850
    box = find_box(hu, (5.0, 4.0, 4.0), crop="abdomen", margin_mm=NONE)
    assert (box.start[0], box.stop[0]) == (0, 40)
    assert box.confidence < 0.5


@pytest.mark.parametrize("number", range(8))
def test_the_dome_and_the_pelvis_of_a_phantom_are_inside(number: int) -> None:
    plan = plan_patient(CohortSpec(seed=11, matrix=96, slices=56), number)
    scan = plan.series[0].scan
    hu = acquire(render(plan.model, scan), scan)
    spacing = (scan.spacing_mm, scan.pixel_mm, scan.pixel_mm)
    box = find_box(hu, spacing, crop="abdomen", margin_mm=NONE)
    bottom, top = scanned_abdomen_mm(plan.model, scan)
    edge = scan.first_z_mm - scan.spacing_mm / 2
    low, high = (edge + index * scan.spacing_mm for index in (box.start[0], box.stop[0]))
    assert high >= top - TOP_CUT_MM
    assert low <= bottom + scan.spacing_mm
    if box.stop[0] < scan.slices:  # a dome was found: chest was cut away, and not half the chest
        assert high - top < 30


@pytest.mark.real_ct
def test_a_real_liver_is_not_cut(real_ct: Path) -> None:
    folder = real_ct / "01_tcga_coad_siemens_abdpelvis"
    volume = read_series(sorted(folder.iterdir()), gaps=GapPolicy(0.05), min_slices=8)
    box = find_box(
        volume.hu, volume.geometry.spacing_mm, crop="abdomen", margin_mm=(10.0, 5.0, 5.0)
    )
    # Looked at: lung and heart above the dome in the uppermost slices, femoral heads at the end.
    assert box.stop[0] >= 80
    assert box.start[0] == 0
    assert box.confidence >= 0.5
