"""Scans of made-up sites: each has its look, and none changes where an organ is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from voco_data.errors import InputError
from voco_data.phantom.cohort import CohortSpec, write_cohort
from voco_data.phantom.domains import DOMAINS
from voco_data.phantom.image_effects import reconstruct
from voco_data.phantom.patient.model import organ_extents
from voco_data.phantom.patient.pose import Scan, Scanner
from voco_data.phantom.patient.surroundings import PLAIN
from voco_data.phantom.patient.viscera import ORGAN_LABELS, SOLID_ORGANS
from voco_data.phantom.plan import plan_patient, plan_unlabelled
from voco_data.phantom.render import acquire, render_scan

NAMES = tuple(DOMAINS)
ALL = CohortSpec(patients=5, unlabelled=5, matrix=64, slices=24, seed=3, domains=NAMES)


@pytest.fixture(scope="module", params=range(len(NAMES)), ids=NAMES)
def scanned(request):
    model, scan = plan_unlabelled(ALL, request.param)
    return DOMAINS[NAMES[request.param]], model, scan, render_scan(model, scan)


def test_label_maps_do_not_depend_on_what_lies_about_the_patient(scanned):
    _, model, scan, picture = scanned
    bare = render_scan(replace(model, surroundings=PLAIN), scan)
    np.testing.assert_array_equal(picture.organs, bare.organs)
    assert picture.findings.keys() == bare.findings.keys()
    for name, mask in picture.findings.items():
        np.testing.assert_array_equal(mask, bare.findings[name])
    assert not np.array_equal(picture.hu, bare.hu)


def test_organs_lie_where_their_geometry_says(scanned):
    """The extent of each label in mm is that of the shape, to within a pixel and the lattice."""
    _, model, scan, picture = scanned
    for name in SOLID_ORGANS:
        extent = organ_extents(model)[name]
        z, y, x = np.nonzero(picture.organs == ORGAN_LABELS[name])
        if not len(z):
            continue
        for axis, (positions, indices) in enumerate(
            ((scan.x_mm, x), (scan.y_mm, y), (scan.z_mm, z))
        ):
            step = float(positions[1] - positions[0])
            low, high = extent.low_mm[axis], extent.high_mm[axis]
            assert positions[indices].min() >= low - step - 4, (name, axis)
            assert positions[indices].max() <= high + step + 4, (name, axis)


def test_solid_organs_do_not_overlap(scanned):
    _, model, scan, _ = scanned
    points = model.pose.points(scan)
    inside = [model.viscera.solid(name).distance(points) < -1 for name in SOLID_ORGANS]
    shared = np.sum([np.broadcast_to(mask, scan.shape) for mask in inside], axis=0) > 1
    assert shared.mean() < 1e-4


def test_a_scan_is_within_the_ranges_of_its_domain(scanned):
    domain, model, scan, _ = scanned
    assert scan.scanner == domain.scanner
    assert scan.phase.name in domain.phases
    assert domain.noise_hu[0] <= scan.noise_hu <= domain.noise_hu[1]
    assert domain.fat_mm[0] <= model.trunk.fat_mm <= domain.fat_mm[1]
    turn = abs(np.rad2deg(model.pose.turn_rad))
    assert domain.turn_deg[0] <= turn <= domain.turn_deg[1]
    width = 2 * model.trunk.half_width_mm * model.pose.scale[0]
    low, high = domain.field_of_view
    assert low * width - 1 <= scan.pixel_mm * scan.columns <= high * width + 1
    for length in (scan.first_z_mm, scan.spacing_mm, scan.pixel_mm, *scan.corner_mm):
        assert length * 128 == round(length * 128)


def test_the_same_scan_twice(scanned):
    _, model, scan, picture = scanned
    np.testing.assert_array_equal(acquire(picture, scan), acquire(render_scan(model, scan), scan))


def step_scan(scanner: Scanner, noise_hu: float = 0.0) -> tuple[Scan, np.ndarray]:
    """A scan of 1 mm pixels whose left half has 0 HU and whose right half has 100 HU."""
    _, scan = plan_unlabelled(ALL, 0)
    scan = replace(
        scan, rows=128, columns=128, slices=12, pixel_mm=1.0, noise_hu=noise_hu, scanner=scanner
    )
    hu = np.zeros(scan.shape, np.float32)
    hu[:, :, 64:] = 100
    return scan, hu


def test_the_kernel_blurs_an_edge_as_a_gaussian_does():
    """An edge blurred by a Gaussian is its cumulative distribution."""
    scan, hu = step_scan(Scanner(blur_mm=2.0))
    image = reconstruct(hu, scan, ())
    distance = np.arange(128) - 63.5
    np.testing.assert_allclose(image[6, 64], 100 * ndtr(distance / 2), atol=1.5)


def test_a_sharp_kernel_overshoots_and_a_soft_one_does_not():
    sharp, hu = step_scan(Scanner(blur_mm=0.5, sharpening=1.5))
    assert reconstruct(hu, sharp, ()).max() > 110
    soft, hu = step_scan(Scanner(blur_mm=2.0))
    assert reconstruct(hu, soft, ()).max() < 100.5


@pytest.mark.parametrize("grain", [0.6, 3.0])
def test_noise_has_its_size_and_its_grain(grain):
    scan, hu = step_scan(Scanner(blur_mm=0.5, grain_mm=grain), noise_hu=20.0)
    noise = reconstruct(np.zeros_like(hu), scan, ())
    assert 12 < noise.std() < 28
    correlation = np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1]
    # White noise blurred by a Gaussian of s pixels has exp(-1 / 4 s^2) at a lag of one pixel.
    assert correlation == pytest.approx(np.exp(-1 / (4 * grain**2)), abs=0.12)


def test_a_round_field_has_no_data_outside_the_circle():
    scan, hu = step_scan(Scanner(round_field=True))
    image = reconstruct(hu, scan, ())
    assert (image[:, 0, 0] == -1024).all()
    assert (image[:, 64, 4:124] > -200).all()


def test_streaks_are_strongest_at_their_source():
    scan, hu = step_scan(Scanner(streaks_hu=30))
    source = (float(scan.x_mm[30]), float(scan.y_mm[64]))
    image = reconstruct(np.zeros_like(hu), scan, (source,))
    assert image[:, 54:74, 20:40].std() > 1.5 * image[:, 54:74, 108:128].std()


def test_patients_take_domains_in_turn_and_the_tables_say_which(tmp_path):
    spec = replace(ALL, patients=3, unlabelled=2, matrix=32, domains=NAMES[:2])
    paths = write_cohort(spec, tmp_path)
    table = pd.read_csv(tmp_path / "domains.csv", dtype=str)
    series = pd.read_csv(paths.ratic / "train_series_meta.csv", dtype=str)
    expected = {str(plan_patient(spec, n).patient_id): NAMES[n % 2] for n in range(3)}
    expected |= {"FLARE23_0001": NAMES[0], "FLARE23_0002": NAMES[1]}
    assert dict(zip(table["patient_id"], table["domain"], strict=True)) == expected
    assert dict(zip(series["series_id"], series["domain"], strict=True)).items() <= (
        dict(zip(table["series_id"], table["domain"], strict=True)).items()
    )
    assert write_cohort(spec, tmp_path) == paths
    with pytest.raises(InputError, match="other parameters"):
        write_cohort(replace(spec, domains=NAMES[2:4]), tmp_path)


def test_a_cohort_without_domains_has_no_trace_of_them(tmp_path):
    paths = write_cohort(CohortSpec(patients=1, unlabelled=0, matrix=32, slices=14), tmp_path)
    assert not (tmp_path / "domains.csv").exists()
    assert "domain" not in (tmp_path / "phantom.json").read_text()
    assert "domain" not in (paths.ratic / "train_series_meta.csv").read_text()


@pytest.mark.parametrize("names", [("moon",), (NAMES[0], NAMES[0])])
def test_unknown_and_repeated_domains_are_refused(names):
    with pytest.raises(InputError, match="expected different domains out of trauma"):
        CohortSpec(domains=names)
