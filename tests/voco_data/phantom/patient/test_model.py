"""The made-up anatomy against textbook anatomy, and injuries against their grade."""

from __future__ import annotations

import numpy as np
import pytest

from voco_data.phantom.patient.model import (
    abdomen_range_mm,
    make_patient,
    organ_extents,
    scanned_abdomen_mm,
)
from voco_data.phantom.protocol import make_scan
from voco_data.phantom.render import acquire, render_scan

LIVER, SPLEEN, LEFT_KIDNEY, RIGHT_KIDNEY, BOWEL = 1, 2, 3, 4, 5
SEEDS = (1, 2, 3)


def scanned(seed, *, prevalence=0.0, coverage="chest_to_thigh", matrix=64, slices=48):
    rng = np.random.default_rng(seed)
    patient = make_patient(rng, injury_prevalence=prevalence)
    scan = make_scan(rng, patient, matrix=matrix, slices=slices, coverage=coverage, phase="portal")
    return patient, scan, render_scan(patient, scan)


@pytest.fixture(scope="module", params=SEEDS)
def healthy(request):
    return scanned(request.param)


def centre_mm(scan, mask):
    z, y, x = (float(np.mean(axis)) for axis in np.nonzero(mask))
    return (
        scan.corner_mm[0] + x * scan.pixel_mm,
        scan.corner_mm[1] + y * scan.pixel_mm,
        scan.first_z_mm + z * scan.spacing_mm,
    )


def test_organs_are_on_their_sides(healthy):
    _, scan, picture = healthy
    body = centre_mm(scan, picture.hu > -300)
    centres_mm = {label: centre_mm(scan, picture.organs == label) for label in range(1, 6)}
    assert centres_mm[LIVER][0] < body[0] - 20
    assert centres_mm[RIGHT_KIDNEY][0] < body[0] - 20
    assert centres_mm[SPLEEN][0] > body[0] + 20
    assert centres_mm[LEFT_KIDNEY][0] > body[0] + 20
    for behind in (LEFT_KIDNEY, RIGHT_KIDNEY):
        assert centres_mm[behind][1] > centres_mm[BOWEL][1] + 10
    assert centres_mm[RIGHT_KIDNEY][2] < centres_mm[LIVER][2]
    assert centres_mm[BOWEL][2] < centres_mm[LIVER][2]


def test_the_spine_is_posterior_and_the_lungs_are_above_the_liver(healthy):
    patient, scan, picture = healthy
    liver = picture.organs == LIVER
    level = np.flatnonzero(liver.any(axis=(1, 2)))
    slab = np.zeros_like(liver)
    slab[level[0] : level[-1] + 1] = True
    x = scan.x_mm[None, None, :] - patient.pose.shift_mm[0]
    spine = slab & (picture.hu > 300) & (np.abs(x) < 25)
    body = slab & (picture.hu > -300)
    assert centre_mm(scan, spine)[1] > centre_mm(scan, body)[1] + 25
    inside = np.abs(x) < 100
    lungs = inside & (picture.hu < -700) & (picture.hu > -950)
    assert centre_mm(scan, lungs)[2] > centre_mm(scan, liver)[2] + 60


def test_tissues_have_their_hu(healthy):
    _, _, picture = healthy
    median = {label: float(np.median(picture.hu[picture.organs == label])) for label in range(1, 5)}
    assert 90 <= median[LIVER] <= 145
    assert 95 <= median[SPLEEN] <= 150
    assert 130 <= median[LEFT_KIDNEY] <= 215
    assert 130 <= median[RIGHT_KIDNEY] <= 215
    assert picture.hu.min() >= -1000
    assert np.all(picture.hu[:, 0, :] == -1000)
    assert np.mean(picture.hu > 400) > 0.001


def test_volumes_are_those_of_adults():
    litres = {1: (0.8, 2.3), 2: (0.08, 0.4), 3: (0.08, 0.3), 4: (0.08, 0.32)}
    for seed in SEEDS:
        _, scan, picture = scanned(seed, coverage="abdomen", matrix=96, slices=72)
        voxel = scan.pixel_mm**2 * scan.spacing_mm * 1e-6
        for label, (low, high) in litres.items():
            assert low < np.count_nonzero(picture.organs == label) * voxel < high, (seed, label)


def test_extents_hold_the_organs_and_no_more(healthy):
    patient, scan, picture = healthy
    names = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4}
    for name, extent in organ_extents(patient).items():
        z, y, x = np.nonzero(picture.organs == names[name])
        for found, axis in ((scan.x_mm[x], 0), (scan.y_mm[y], 1), (scan.z_mm[z], 2)):
            step = scan.spacing_mm if axis == 2 else 2 * scan.pixel_mm + 6
            assert found.min() == pytest.approx(extent.low_mm[axis], abs=step + 3)
            assert found.max() == pytest.approx(extent.high_mm[axis], abs=step + 3)


def test_the_abdomen_goes_from_the_sitting_bones_to_the_top_of_the_liver(healthy):
    patient, scan, picture = healthy
    bottom, top = abdomen_range_mm(patient)
    upper = scan.z_mm[np.isin(picture.organs, (LIVER, SPLEEN)).any(axis=(1, 2))].max()
    assert top == pytest.approx(upper, abs=scan.spacing_mm + 3)
    # Bone of the pelvis ends at the bottom; the shafts of the femora, further out, go on.
    x = np.abs(scan.x_mm - patient.pose.shift_mm[0]) < 75 * patient.pose.scale[0]
    bone = (picture.hu[:, :, x] > 250).any(axis=(1, 2))
    lowest = scan.z_mm[np.flatnonzero(bone)[0]]
    assert lowest == pytest.approx(bottom, abs=scan.spacing_mm + 4)
    assert scanned_abdomen_mm(patient, scan) == (bottom, top)


def test_a_short_scan_shows_a_part_of_the_abdomen():
    patient, scan, _ = scanned(5, coverage="short")
    bottom, top = scanned_abdomen_mm(patient, scan)
    assert top == scan.z_mm[-1] < abdomen_range_mm(patient)[1]
    assert bottom >= scan.z_mm[0]


@pytest.mark.parametrize("seed", [10, 11, 12, 13])
def test_the_grade_is_the_hurt_share_and_injuries_are_dark(seed):
    patient, _, picture = scanned(seed, prevalence=1.0, coverage="abdomen", matrix=112, slices=90)
    labels = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4}
    assert {injury.organ for injury in patient.injuries} == {"kidney", "liver", "spleen"}
    for injury in patient.injuries:
        organ = picture.organs == labels[injury.solid]
        hurt = picture.findings[injury.organ] & organ
        share = np.count_nonzero(hurt) / np.count_nonzero(organ)
        low, high = {"low": (0.12, 0.18), "high": (0.35, 0.55)}[injury.grade]
        # Documented shares, with room for voxels of about 3 by 3 by 6 mm.
        assert low * 0.7 <= share <= high * 1.2, (injury.solid, injury.grade)
        rest = organ & ~hurt
        contrast = np.median(picture.hu[rest]) - np.median(picture.hu[hurt])
        if patient.bleed is None:
            assert contrast >= 50
        assert (injury.pool is not None) == (injury.grade == "high")


def test_prevalence_is_the_chance_of_an_injury():
    patients = [make_patient(np.random.default_rng(seed)) for seed in range(40)]
    grades = [p.grade(organ) for p in patients for organ in ("kidney", "liver", "spleen")]
    # 120 draws with chance 0.35 have mean 42 and standard deviation 5.2: three of them about it.
    assert 26 <= sum(grade != "healthy" for grade in grades) <= 58
    assert grades.count("low") >= 5
    assert grades.count("high") >= 5
    for patient in patients:
        hurt = patient.injuries or patient.bowel_injury or patient.bleed
        assert patient.any_injury == bool(hurt)
    assert not make_patient(np.random.default_rng(0), injury_prevalence=0).injuries


def test_bleeds_are_bright_and_hurt_bowel_is_marked():
    found = set()
    for seed in range(60):
        patient = make_patient(np.random.default_rng(seed), injury_prevalence=0.35)
        if not (patient.bleed or patient.bowel_injury) or len(found) == 2:
            continue
        rng = np.random.default_rng(seed)
        scan = make_scan(rng, patient, matrix=96, slices=60, coverage="abdomen", phase="portal")
        picture = render_scan(patient, scan)
        if patient.bleed:
            found.add("extravasation")
            assert np.median(picture.hu[picture.findings["extravasation"]]) > 180
        if patient.bowel_injury:
            found.add("bowel")
            mask = picture.findings["bowel"]
            assert np.any(picture.hu[mask] < -500), "no free gas"
            assert np.any(picture.organs[mask] == BOWEL)
        expected = {name for name in ("extravasation", "bowel") if name in picture.findings}
        assert expected == {
            name
            for name, truth in (
                ("extravasation", patient.bleed),
                ("bowel", patient.bowel_injury),
            )
            if truth
        }
    assert found == {"extravasation", "bowel"}


def test_noise_has_the_strength_and_offset_of_the_scan(healthy):
    _, scan, picture = healthy
    hu = acquire(picture, scan)
    assert hu.dtype == np.int16
    assert hu.min() >= -1024
    tissue = picture.hu > -500
    noise = hu[tissue] - picture.hu[tissue]
    assert noise.std() == pytest.approx(scan.noise_hu, rel=0.03)
    assert noise.mean() == pytest.approx(scan.offset_hu, abs=0.5)
    np.testing.assert_array_equal(hu, acquire(picture, scan))
