"""The cohort on disk: layouts, tables, truth and determinism."""

from __future__ import annotations

import csv
import hashlib

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest

from voco_data.errors import InputError
from voco_data.phantom.cohort import CohortSpec, write_cohort
from voco_data.phantom.plan import plan_patient, plan_unlabelled
from voco_data.phantom.render import acquire, render_scan

SMALL = CohortSpec(
    patients=6,
    unlabelled=2,
    matrix=48,
    slices=24,
    injury_prevalence=0.7,
    segmentation_fraction=0.6,
    seed=1,
)
TINY = {"matrix": 32, "slices": 14}
LABEL_COLUMNS = (
    "bowel_healthy,bowel_injury,extravasation_healthy,extravasation_injury,"
    "kidney_healthy,kidney_low,kidney_high,liver_healthy,liver_low,liver_high,"
    "spleen_healthy,spleen_low,spleen_high"
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(SMALL, tmp_path_factory.mktemp("cohort"))


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_same_parameters_same_bytes_whatever_the_workers(tmp_path):
    spec = CohortSpec(patients=3, unlabelled=2, segmentation_fraction=1.0, **TINY)
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    write_cohort(spec, one)
    write_cohort(spec, two, workers=2)
    assert digests(one) == digests(two)
    assert any(name.endswith(".nii") for name in digests(one))

    write_cohort(CohortSpec(patients=3, unlabelled=2, seed=1, **TINY), other)
    first = {d for name, d in digests(one).items() if name.endswith((".dcm", ".gz"))}
    second = {d for name, d in digests(other).items() if name.endswith((".dcm", ".gz"))}
    assert not first & second


def test_fewer_patients_are_a_prefix(tmp_path):
    many, few = tmp_path / "many", tmp_path / "few"
    write_cohort(CohortSpec(patients=3, unlabelled=2, **TINY), many)
    write_cohort(CohortSpec(patients=2, unlabelled=1, **TINY), few)
    images = {k: v for k, v in digests(few).items() if k.endswith((".dcm", ".nii", ".gz"))}
    assert images
    assert images.items() <= digests(many).items()
    lines = (few / "ratic" / "train.csv").read_text().splitlines()
    assert (many / "ratic" / "train.csv").read_text().splitlines()[:3] == lines


def test_later_patients_are_those_of_a_larger_cohort(tmp_path):
    """With another first number, the rest of the patients, and none of the first."""
    all_of_them, rest = tmp_path / "all", tmp_path / "rest"
    write_cohort(CohortSpec(patients=3, unlabelled=0, **TINY), all_of_them)
    write_cohort(CohortSpec(patients=2, unlabelled=0, first_patient=1, **TINY), rest)
    images = {k: v for k, v in digests(rest).items() if k.endswith(".dcm")}
    assert images
    assert images.items() < digests(all_of_them).items()
    labels = [
        (root / "ratic" / "train.csv").read_text().splitlines() for root in (all_of_them, rest)
    ]
    assert labels[1] == [labels[0][0], *labels[0][2:]]
    with pytest.raises(InputError, match="other parameters"):
        write_cohort(CohortSpec(patients=2, unlabelled=0, **TINY), rest)


def test_a_whole_cohort_is_left_alone_and_a_foreign_one_refused(tmp_path):
    spec = CohortSpec(patients=1, unlabelled=0, **TINY)
    paths = write_cohort(spec, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write_cohort(spec, tmp_path) == paths
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(InputError, match="other parameters"):
        write_cohort(CohortSpec(patients=2, unlabelled=0, **TINY), tmp_path)

    marker = tmp_path / "phantom.json"
    whole = digests(tmp_path)
    marker.write_text(marker.read_text().replace('"whole": true', '"whole": false'))
    paths.labels.unlink()
    write_cohort(spec, tmp_path)
    assert digests(tmp_path) == whole

    marker.unlink()
    with pytest.raises(InputError, match="no cohort of ours"):
        write_cohort(spec, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"patients": 0},
        {"matrix": 4},
        {"slices": 2},
        {"injury_prevalence": 2},
        {"seed": -1},
        {"first_patient": -1},
        {"first_patient": 32_000},
    ],
)
def test_bad_parameters_are_refused(wrong):
    with pytest.raises(InputError, match="cohort: "):
        CohortSpec(**wrong)


def test_tables_have_exactly_the_real_columns(cohort):
    headers = {
        "train.csv": f"patient_id,{LABEL_COLUMNS},any_injury",
        "train_2024.csv": f"patient_id,{LABEL_COLUMNS},any_injury",
        "sample_submission.csv": f"patient_id,{LABEL_COLUMNS}",
        "train_series_meta.csv": "patient_id,series_id,aortic_hu,incomplete_organ",
        "image_level_labels.csv": "patient_id,series_id,instance_number,injury_name",
        "image_level_labels_2024.csv": "patient_id,series_id,instance_number,injury_name",
    }
    for name, header in headers.items():
        assert (cohort.ratic / name).read_text().splitlines()[0] == header, name
    demographics = pd.read_csv(cohort.ratic / "train_demographics_2024.csv")
    assert list(demographics["patient_id"]) == list(pd.read_csv(cohort.labels)["patient_id"])


def test_folders_tables_and_tags_agree(cohort):
    found = {
        (int(path.parent.parent.name), int(path.parent.name), int(path.stem))
        for path in cohort.ratic.glob("train_images/*/*/*.dcm")
    }
    meta = pd.read_csv(cohort.ratic / "train_series_meta.csv")
    assert {(p, s) for p, s, _ in found} == set(zip(meta.patient_id, meta.series_id, strict=True))
    assert meta.series_id.is_unique
    assert meta.groupby("patient_id").size().between(1, 2).all()
    tags = pd.read_parquet(cohort.ratic / "train_dicom_tags.parquet")
    assert len(tags) == len(found)
    for row in tags.iloc[::37].itertuples():
        file = pydicom.dcmread(cohort.ratic / row.path)
        assert file.SOPInstanceUID == row.SOPInstanceUID
        assert file.InstanceNumber == row.InstanceNumber
        assert str([float(v) for v in file.ImagePositionPatient]) == row.ImagePositionPatient


def test_labels_are_one_hot_and_are_the_injuries(cohort):
    with cohort.labels.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == SMALL.patients
    for number, row in enumerate(rows):
        plan = plan_patient(SMALL, number)
        assert int(row["patient_id"]) == plan.patient_id
        injured = False
        for group in ("bowel", "extravasation", "kidney", "liver", "spleen"):
            hot = [k for k, v in row.items() if k.startswith(f"{group}_") and v == "1"]
            assert len(hot) == 1
            injured |= not hot[0].endswith("healthy")
            if group in ("kidney", "liver", "spleen"):
                grades = [i.grade for i in plan.model.injuries if i.organ == group]
                assert hot[0] == f"{group}_{grades[0] if grades else 'healthy'}"
        assert row["any_injury"] == str(int(injured))
    assert any(row["any_injury"] == "1" for row in rows)


def test_image_labels_name_the_slices_that_show_the_injury(tmp_path):
    # Searched: the seed and the number of a patient with a bleed or hurt bowel.
    spec = next(
        spec
        for spec in (CohortSpec(patients=1, unlabelled=0, seed=s, **TINY) for s in range(200))
        if plan_patient(spec, 0).model.bowel_injury
    )
    plan = plan_patient(spec, 0)
    paths = write_cohort(spec, tmp_path)
    labels = pd.read_csv(paths.ratic / "image_level_labels.csv")
    labels = labels[labels.injury_name == "Bowel"]
    assert set(labels.injury_name) <= {"Active_Extravasation", "Bowel"}
    for series in plan.series:
        mask = render_scan(plan.model, series.scan).findings["bowel"]
        folder = paths.ratic / "train_images" / str(plan.patient_id) / str(series.series_id)
        numbers = set(labels[labels.series_id == series.series_id].instance_number)
        assert numbers
        for path in folder.glob("*.dcm"):
            z = float(pydicom.dcmread(path).ImagePositionPatient[2])
            index = int(np.flatnonzero(series.scan.z_mm == z)[0])
            assert bool(mask[index].any()) == (int(path.stem) in numbers)


def test_series_have_the_quirks_of_the_real_set():
    spec = CohortSpec(patients=40, injury_prevalence=0.0, **TINY)
    series = [s for n in range(spec.patients) for s in plan_patient(spec, n).series]
    assert spec.patients < len(series) < 2 * spec.patients
    assert {s.style.descending for s in series} == {False, True}
    assert 0 < sum(s.style.first_instance > 1 for s in series) < len(series)
    assert {len(s.style.window_centre) for s in series} == {1, 2}
    assert {s.scan.phase.name for s in series} == {"arterial", "portal"}
    assert all(s.style.modality is None and s.style.transfer_syntax == "rle" for s in series)
    assert len({s.series_id for s in series}) == len(series)
    assert len({s.scan.slices for s in series}) >= 4
    incomplete = [s.incomplete_organ for s in series]
    assert 0 < sum(incomplete) < len(series) / 2


def test_incomplete_organs_touch_the_end_of_the_scan():
    spec = CohortSpec(patients=25, injury_prevalence=0.0, matrix=48, slices=40, seed=4)
    seen = set()
    for number in range(spec.patients):
        plan = plan_patient(spec, number)
        for series in plan.series:
            if series.incomplete_organ in seen:
                continue
            seen.add(series.incomplete_organ)
            organs = render_scan(plan.model, series.scan).organs
            cut = np.isin(organs[[0, -1]], (1, 2, 3, 4)).any()
            assert cut == series.incomplete_organ
    assert seen == {False, True}


def test_segmentations_land_on_the_organs_through_the_affine(cohort):
    """nibabel reads the labels, pydicom the images: they have only the world frame in common."""
    files = sorted((cohort.ratic / "segmentations").glob("*.nii"))
    assert files
    for path in files:
        plan, series = next(
            (plan, series)
            for plan in (plan_patient(SMALL, n) for n in range(SMALL.patients))
            for series in plan.series
            if series.series_id == int(path.stem)
        )
        image = nib.load(path)
        labels = np.asarray(image.dataobj)
        assert labels.dtype == np.uint8
        # DICOM order is (L, P, S or I); this one differs in its rows.
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
        assert set(np.unique(labels)) <= {0, 1, 2, 3, 4, 5}
        organs = render_scan(plan.model, series.scan).organs
        folder = cohort.ratic / "train_images" / str(plan.patient_id) / str(series.series_id)
        inverse = np.linalg.inv(image.affine)
        liver_hu = []
        for dicom in folder.glob("*.dcm"):
            plane = pydicom.dcmread(dicom)
            x0, y0, z = (float(v) for v in plane.ImagePositionPatient)
            rows, columns = np.mgrid[: plane.Rows, : plane.Columns]
            step = float(plane.PixelSpacing[0])
            lps = np.stack([x0 + columns * step, y0 + rows * step, np.full(rows.shape, z)])
            ras = lps * np.array([-1, -1, 1])[:, None, None]
            voxel = np.einsum("ij,jyx->iyx", inverse[:3, :3], ras) + inverse[:3, 3, None, None]
            index = np.rint(voxel).astype(int)
            np.testing.assert_allclose(voxel, index, atol=1e-3)
            here = labels[tuple(index)]
            np.testing.assert_array_equal(here, organs[series.scan.z_mm == z][0])
            hu = plane.pixel_array + float(plane.RescaleIntercept)
            liver_hu.extend(hu[here == 1])
        if liver_hu and plan.model.grade("liver") != "high":
            assert np.median(liver_hu) > 80


def test_flare_volumes_are_the_acquired_hu(cohort):
    files = sorted(cohort.flare.glob("unlabeledTr1800/FLARE23_*_0000.nii.gz"))
    assert [path.name for path in files] == ["FLARE23_0001_0000.nii.gz", "FLARE23_0002_0000.nii.gz"]
    orders = set()
    for number, path in enumerate(files):
        # Bytes 4 to 7 of a gzip file are its time: 0 means none.
        assert path.read_bytes()[:2] == b"\x1f\x8b"
        assert path.read_bytes()[4:8] == bytes(4)
        image = nib.load(path)
        assert image.get_data_dtype() == np.int16
        orders.add(nib.aff2axcodes(image.affine))
        patient, scan = plan_unlabelled(SMALL, number)
        hu = acquire(render_scan(patient, scan), scan)
        upright = nib.as_closest_canonical(image)
        # Canonical is (R, A, S); ours grows to the left and to posterior.
        data = np.asarray(upright.dataobj)[::-1, ::-1, :].transpose(2, 1, 0)
        np.testing.assert_array_equal(data, hu)
    assert orders == {("L", "P", "S"), ("L", "A", "S")}
