"""The box against the phantom's geometry, and against shapes with hand-known edges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from tests.support.abdomen_figure import (
    DOME,
    ISCHIUM,
    SPACING_MM,
    arms_and_couch,
    patient,
)
from tests.support.abdomen_scans import (
    Error,
    Summary,
    TrueScan,
    measure,
    planned_scan,
    summarise,
    varied_scan,
)
from tests.support.abdomen_trouble import clipped, with_blank_ends, with_tilt
from voco_data.cropping.abdomen import find_box
from voco_data.dicom.series.reader import read_series
from voco_data.nifti.reader import read_nifti
from voco_data.phantom.patient.model import scanned_abdomen_mm
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_data.phantom.render import acquire, render_scan
from voco_data.volumes.slice_spacing import GapPolicy

NONE = (0.0, 0.0, 0.0)
GROSS_MM = 60.0
"""Largest error of an end of a box with a confidence of 0.5 or more."""
P95_MM = 30.0
LIMITS_MM = {", tilted": (60.0, 90.0), ", clipped": (45.0, GROSS_MM)}
"""The same in spoilt scans. A wedge may take the chest above a dome, and clipped scans need 40 mm
of thighs for their lower end; otherwise the end of the scan is kept."""
TOP_CUT_MM = 6.0
"""Depth below the top of a dome at which its section is a few square centimetres."""


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
    hu[:, 65:70, 59] = 100  # a cable that connects it to the body
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
    hu = acquire(render_scan(plan.model, scan), scan)
    spacing = (scan.spacing_mm, scan.pixel_mm, scan.pixel_mm)
    box = find_box(hu, spacing, crop="abdomen", margin_mm=NONE)
    bottom, top = scanned_abdomen_mm(plan.model, scan)
    edge = scan.first_z_mm - scan.spacing_mm / 2
    low, high = (edge + index * scan.spacing_mm for index in (box.start[0], box.stop[0]))
    assert high >= top - TOP_CUT_MM
    assert low <= bottom + scan.spacing_mm
    if box.stop[0] < scan.slices:  # a dome was found: chest was cut away, and not half the chest
        assert high - top < 30


def ends(hu: npt.NDArray[np.int16]) -> tuple[int, int, float]:
    box = find_box(np.ascontiguousarray(hu), SPACING_MM, crop="abdomen", margin_mm=NONE)
    assert (box.method == "profile") == (box.confidence >= 0.5)
    return box.start[0], box.stop[0], box.confidence


@pytest.mark.parametrize("others", [patient, lambda: arms_and_couch(patient())])
def test_the_ends_are_the_dome_and_the_ischium(
    others: Callable[[], npt.NDArray[np.int16]],
) -> None:
    bottom, top, confidence = ends(others())
    assert abs(bottom - ISCHIUM) <= 1
    assert abs(top - DOME) <= 1
    assert confidence > 0.9


def with_fat(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The figure with fat under its skin."""
    _, y, x = np.ogrid[[slice(n) for n in hu.shape]]
    wall = ((np.abs(x - 64.5) / 36) ** 2 + ((y - 44.5) / 22) ** 2 > 1) & (hu == 40)
    return np.where(wall, -100, hu).astype(np.int16)


def test_an_end_that_is_not_scanned_is_the_scans_own() -> None:
    hu = patient()
    low, high, confidence = ends(hu[32:])
    assert (low, abs(high - (DOME - 32)) <= 1) == (0, True)
    assert 0.5 < confidence < 0.9
    low, high, confidence = ends(hu[:70])
    assert (abs(low - ISCHIUM) <= 1, high) == (True, 70)
    assert 0.5 < confidence < 0.9
    low, high, confidence = ends(with_fat(hu)[45:70])
    assert (low, high) == (0, 25)
    assert 0.5 <= confidence < 0.7


def test_the_body_box_leaves_arms_and_couch_out() -> None:
    bare = find_box(patient(), SPACING_MM, crop="abdomen", margin_mm=NONE)
    dressed = find_box(arms_and_couch(patient()), SPACING_MM, crop="abdomen", margin_mm=NONE)
    assert np.abs(np.subtract(bare.start, dressed.start)).max() <= 2
    assert np.abs(np.subtract(bare.stop, dressed.stop)).max() <= 2


def one_lung_full(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    hu[:, :, :64][hu[:, :, :64] == -850] = 20
    return hu


def gas_under_the_wall(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    z, y, x = np.ogrid[[slice(n) for n in hu.shape]]
    bag = (z > 48) & (z < 66) & (y > 24) & (y < 40) & (np.abs(np.abs(x - 64.5) - 14) < 9)
    return np.where(bag, -1000, hu).astype(np.int16)[45:70]


def a_head(_hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    z, y, x = np.ogrid[:40, :90, :130]
    r = ((x - 64.5) / 19) ** 2 + ((y - 44.5) / 24) ** 2 + ((z - 20) / 19) ** 2
    return np.select([r < 0.8, r < 1], [35, 900], -1000).astype(np.int16)


ODD: dict[str, Callable[[npt.NDArray[np.int16]], npt.NDArray[np.int16]]] = {
    "chest": lambda hu: hu[DOME + 1 :],
    "chest with a little liver": lambda hu: hu[DOME - 6 :],
    "legs": lambda hu: hu[: ISCHIUM - 2],
    "upside down": lambda hu: hu[::-1],
    "front to back": lambda hu: hu[:, ::-1],
    "axes exchanged": lambda hu: np.moveaxis(hu, 0, 1),
    "one lung full of fluid": one_lung_full,
    "lungs cut by the picture": lambda hu: hu[:, :, 36:94],
    "no pelvis where it should be": lambda hu: np.where(hu == 500, 40, hu).astype(np.int16)[:70],
    "head": a_head,
}


@pytest.mark.parametrize("name", ODD)
def test_what_makes_no_sense_keeps_the_whole_body_with_low_confidence(name: str) -> None:
    hu = ODD[name](patient())
    assert ends(hu)[:2] == (0, len(hu))
    assert ends(hu)[2] < 0.5


def test_gas_of_the_bowel_is_no_lung() -> None:
    bottom, top, _ = ends(gas_under_the_wall(patient()))
    assert (bottom, top) == (0, 25)


def test_contrast_in_the_rectum_and_in_vessels_does_not_move_the_bottom() -> None:
    hu = patient()
    hu[ISCHIUM:45, 52:60, 61:68] = 700
    z, y, x = np.ogrid[[slice(n) for n in hu.shape]]
    artery = ((np.abs(x - 64.5) - 18) ** 2 + (y - 34) ** 2 < 3) & (z < 42)
    hu[np.broadcast_to(artery, hu.shape)] = 400
    assert abs(ends(hu)[0] - ISCHIUM) <= 1


def test_metal_beyond_the_scale_of_ct_is_bone() -> None:
    hu = patient()
    hu[:42][hu[:42] == 500] = 30_000
    assert abs(ends(hu)[0] - ISCHIUM) <= 1


def check(
    summary: Summary, errors: list[Error], p95_mm: float = P95_MM, gross_mm: float = GROSS_MM
) -> None:
    for end in ("top", "bottom", "pooled"):
        assert summary.median[end] <= 10, end
        assert summary.p95[end] <= p95_mm, end
    assert summary.cut == 0
    sure = [error for error in errors if error.confidence >= 0.5]
    assert len(sure) >= 0.9 * len(errors)
    for error in sure:
        assert max(abs(error.top_mm), abs(error.bottom_mm)) <= gross_mm, error.story


def test_measured_against_the_phantom() -> None:
    errors = [measure(planned_scan(101, number)) for number in range(8)]
    errors += [measure(varied_scan(102, number)) for number in range(8)]
    check(summarise(errors), errors)


TILTS_DEG = (-15.0, -8.0, -3.0, -1.2, 1.2, 3.0, 8.0, 15.0)
TROUBLES: dict[str, Callable[[TrueScan, int], TrueScan]] = {
    "": lambda scan, _: scan,
    ", blank ends": with_blank_ends,
    ", tilted": lambda scan, number: with_tilt(scan, TILTS_DEG[number % len(TILTS_DEG)]),
    ", clipped": clipped,
}


@pytest.mark.parametrize(
    ("make", "number"),
    [(planned_scan, n) for n in (54, 57)] + [(varied_scan, n) for n in (2, 10, 14, 42, 73)],
)
def test_the_wedges_of_a_straightened_tilt_are_kept_where_they_show_organs(
    make: Callable[[int, int], TrueScan], number: int
) -> None:
    assert measure(TROUBLES[", tilted"](make(104, number), number)).cut == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"), [("protocols", planned_scan), ("any range", varied_scan)]
)
def test_measured_against_200_scans_of_the_phantom(
    name: str, make: Callable[[int, int], TrueScan], capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, list[Error]] = {trouble: [] for trouble in TROUBLES}
    for number in range(200):
        scan = make(104, number)
        for trouble, spoil in TROUBLES.items():
            found[trouble].append(measure(spoil(scan, number)))
    rows = [summarise(errors).row(f"{name}{trouble}") for trouble, errors in found.items()]
    for low, high in ((0, 2), (2, 5), (5, 99)):
        part = [error for error in found[""] if low <= error.slice_mm < high]
        rows += [summarise(part).row(f"{name}, slices of {low} to {high} mm")] if part else []
    with capsys.disabled():
        print("", *rows, sep="\n")
    for trouble, errors in found.items():
        check(summarise(errors), errors, *LIMITS_MM.get(trouble, (P95_MM, GROSS_MM)))


@pytest.mark.real_ct
def test_a_real_liver_is_not_cut(real_ct: Path) -> None:
    folder = real_ct / "01_tcga_coad_siemens_abdpelvis"
    volume = read_series(sorted(folder.iterdir()), gaps=GapPolicy(0.05), min_slices=8)
    box = find_box(
        volume.hu, volume.geometry.spacing_mm, crop="abdomen", margin_mm=(10.0, 5.0, 5.0)
    )
    # By inspection: the dome's top is at slice 82, the ischia leave the scan at slice 0.
    assert 82 <= box.stop[0] <= 87
    assert box.start[0] == 0
    assert box.confidence >= 0.5


ORGANS_OF_TOTALSEGMENTATOR = (1, 2, 3, 4, 5, 6, 7, 18, 19, 20)
"""Spleen, kidneys, gallbladder, liver, stomach, pancreas, small bowel, duodenum, colon."""


@pytest.mark.real_ct
def test_scans_that_show_neither_end_keep_every_slice_and_every_organ(real_ct: Path) -> None:
    folder = real_ct / "03_totalseg_nifti"
    slab = read_series(
        sorted((real_ct / "02_totalseg_siemens_j2k_abdomen").iterdir()),
        gaps=GapPolicy(0.05),
        min_slices=8,
    )
    abdomen = read_nifti(folder / "example_ct.nii.gz", min_slices=8)
    for volume, mask in ((slab, "example_seg_dicom.nii.gz"), (abdomen, "example_seg.nii.gz")):
        canonical = volume.geometry.canonical(5.0)
        hu = np.ascontiguousarray(canonical.to_canonical(volume.hu), np.int16)
        box = find_box(hu, canonical.spacing_mm, crop="abdomen", margin_mm=NONE)
        assert (box.start[0], box.stop[0]) == (0, len(hu))
        assert box.confidence >= 0.5
        labels = nibabel.as_closest_canonical(nibabel.load(folder / mask))
        # From (right to left, ..., up) to canonical; the small map covers the uppermost slices.
        organs = np.isin(np.asanyarray(labels.dataobj), ORGANS_OF_TOTALSEGMENTATOR)
        _, y, x = np.nonzero(organs.transpose(2, 1, 0)[:, ::-1, ::-1])
        assert box.start[1] <= y.min()
        assert y.max() < box.stop[1]
        assert box.start[2] <= x.min()
        assert x.max() < box.stop[2]
