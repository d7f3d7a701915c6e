"""NIfTI by its affine: files that nibabel wrote, and measured truths of real files."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.support.ct_files import body
from voco_data.dicom.series.reader import read_series
from voco_data.errors import SeriesRefused
from voco_data.nifti.reader import read_nifti
from voco_data.reasons import Reason
from voco_data.volumes.hu_evidence import check_hu
from voco_data.volumes.slice_spacing import GapPolicy


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def refusal(path: Path) -> Reason:
    with pytest.raises(SeriesRefused) as caught:
        read_nifti(path, min_slices=8)
    return caught.value.reason


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
def test_any_axis_direction_gives_one_canonical_volume(
    tmp_path: Path, flips: tuple[int, int, int]
) -> None:
    hu = body()  # canonical (z, y, x): superior, posterior, left
    # In RAS, x of the file grows to the right and y to the front: both against LPS.
    array = hu.transpose(2, 1, 0)[:: flips[0], :: flips[1], :: flips[2]]
    scale = np.array([-2.0, -2.0, 5.0]) * flips
    affine = np.diag([*scale, 1.0])
    volume = read_nifti(write(tmp_path / "a.nii.gz", array, affine), min_slices=8)
    canonical = volume.geometry.canonical(5.0)
    assert np.array_equal(canonical.to_canonical(volume.hu), hu)
    assert canonical.spacing_mm == pytest.approx((5.0, 2.0, 2.0))


def test_position_is_the_affine_in_lps(tmp_path: Path) -> None:
    affine = np.array([[2, 0, 0, -30], [0, 2, 0, -40], [0, 0, 5, 70], [0, 0, 0, 1.0]])
    path = write(tmp_path / "a.nii", body().transpose(2, 1, 0), affine)
    assert read_nifti(path, min_slices=8).geometry.origin_mm == pytest.approx((30, 40, 70))


def test_what_is_not_ct(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:9] = 3
    assert refusal(write(tmp_path / "label.nii.gz", labels, np.eye(4))) == Reason.NOT_CT
    hu = np.full((20, 20, 20, 2), -1000, np.int16)
    assert refusal(write(tmp_path / "4d.nii.gz", hu, np.eye(4))) == Reason.NOT_A_VOLUME
    flat = np.full((20, 20), -1000, np.int16)
    assert refusal(write(tmp_path / "2d.nii.gz", flat, np.eye(4))) == Reason.NOT_A_VOLUME
    nan = np.full((20, 20, 20), np.nan, np.float32)
    assert refusal(write(tmp_path / "nan.nii.gz", nan, np.eye(4))) == Reason.UNREADABLE


def test_labels_with_an_ignored_class_and_normalised_values_are_not_ct(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.int16)
    labels[5:9], labels[0] = 13, -1
    assert refusal(write(tmp_path / "ignore.nii.gz", labels, np.eye(4))) == Reason.NOT_CT
    scored = np.random.default_rng(0).normal(0, 1, (20, 20, 20)).astype(np.float32)
    volume = read_nifti(write(tmp_path / "z.nii.gz", scored, np.eye(4)), min_slices=8)
    with pytest.raises(SeriesRefused, match="not_hu"):
        check_hu(volume.hu)


def test_affines_that_disagree_or_are_not_set_are_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(body().transpose(2, 1, 0), np.diag([-2.0, -2.0, 5.0, 1.0]))
    image.set_sform(np.diag([-2.0, -2.0, 5.0, 1.0]), code=1)
    image.set_qform(np.diag([-2.0, -2.0, 5.5, 1.0]), code=1)
    nibabel.save(image, tmp_path / "both.nii.gz")
    assert refusal(tmp_path / "both.nii.gz") == Reason.AFFINES_DISAGREE
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "none.nii.gz")
    assert refusal(tmp_path / "none.nii.gz") == Reason.MISSING_GEOMETRY


def test_a_file_that_goes_on_and_on_is_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", body().transpose(2, 1, 0), np.eye(4))
    with gzip.open(path, "ab") as file:
        for _ in range(80):
            file.write(bytes(2**20))
    assert refusal(path) == Reason.UNREADABLE


def test_a_corrupt_gzip_is_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", body().transpose(2, 1, 0), np.eye(4))
    path.write_bytes(path.read_bytes()[:2000])
    assert refusal(path) == Reason.UNREADABLE
    path.write_bytes(b"not a gzip at all")
    assert refusal(path) == Reason.UNREADABLE


@pytest.mark.real_ct
def test_a_real_volume_is_one_as_dicom_and_as_nifti(real_ct: Path) -> None:
    folder = real_ct / "04_ibsi_sts036_dicom_nifti_pair"
    nifti = read_nifti(folder / "CT_image.nii.gz", min_slices=8)
    files = sorted((folder / "dicom").iterdir())
    dicom = read_series(files, gaps=GapPolicy(0.05), min_slices=8)
    assert np.array_equal(nifti.hu, dicom.hu)
    assert nifti.geometry.origin_mm == pytest.approx(dicom.geometry.origin_mm, abs=1e-3)
    assert nifti.geometry.spacing_mm == pytest.approx(dicom.geometry.spacing_mm, abs=1e-5)


@pytest.mark.real_ct
def test_real_label_maps_are_not_ct(real_ct: Path) -> None:
    for name in ("example_seg.nii.gz", "example_seg_dicom.nii.gz"):
        assert refusal(real_ct / "03_totalseg_nifti" / name) == Reason.NOT_CT
