"""A written series, read with two other libraries than wrote it."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from voco_data.phantom.patient.model import make_patient
from voco_data.phantom.protocol import make_scan
from voco_data.phantom.render import acquire, render_scan
from voco_data.phantom.scan_files import DicomStyle, write_series

RLE_LOSSLESS, EXPLICIT = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1"


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(7)
    patient = make_patient(rng)
    scan = make_scan(rng, patient, matrix=48, slices=20, coverage="abdomen", phase="arterial")
    return patient, scan, acquire(render_scan(patient, scan), scan)


def read(folder):
    files = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    return sorted(files, key=lambda file: float(file.ImagePositionPatient[2]))


def hu_of(file):
    return file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)


@pytest.mark.parametrize("syntax", ["rle", "explicit"])
@pytest.mark.parametrize("descending", [False, True])
def test_pydicom_and_simpleitk_read_the_acquired_hu(case, tmp_path, syntax, descending):
    patient, scan, hu = case
    style = DicomStyle(transfer_syntax=syntax, descending=descending, first_instance=31)
    write_series(tmp_path, patient, scan, style)
    files = read(tmp_path)
    np.testing.assert_array_equal(np.stack([hu_of(file) for file in files]), hu)
    expected = EXPLICIT if syntax == "explicit" else RLE_LOSSLESS
    assert {file.file_meta.TransferSyntaxUID for file in files} == {expected}

    numbers = [int(file.InstanceNumber) for file in files]
    ascending = list(range(31, 31 + scan.slices))
    assert numbers == (ascending[::-1] if descending else ascending)
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.dcm" for n in ascending}

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), hu)
    assert image.GetOrigin() == pytest.approx((*scan.corner_mm, scan.first_z_mm), abs=1e-6)
    spacing = (scan.pixel_mm, scan.pixel_mm, scan.spacing_mm)
    assert image.GetSpacing() == pytest.approx(spacing, abs=1e-6)
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_stored_values_need_their_sign_extended(case, tmp_path):
    patient, scan, _ = case
    hu = np.zeros(scan.shape, np.int16)
    hu[0, 0, :4] = (-1024, 1023, 1024, 3071)
    write_series(tmp_path, patient, scan, DicomStyle(transfer_syntax="explicit"), hu=hu)
    first = read(tmp_path)[0]
    assert (first.BitsAllocated, first.BitsStored, first.HighBit) == (16, 12, 11)
    assert first.PixelRepresentation == 1
    stored = np.frombuffer(first.PixelData, "<u2")
    # Twelve bits of two's complement: -2048, -1, 0, 2047.
    assert stored[:4].tolist() == [2048, 4095, 0, 2047]
    assert first.pixel_array[0, :4].tolist() == [-2048, -1, 0, 2047]
    assert hu_of(first)[0, :4].tolist() == [-1024, 1023, 1024, 3071]


def test_tags_can_be_left_out_or_set(case, tmp_path):
    patient, scan, hu = case
    bare = DicomStyle(modality=None, patient_name=None, patient_id="10004")
    write_series(tmp_path / "bare", patient, scan, bare, hu=hu)
    for file in read(tmp_path / "bare"):
        assert "Modality" not in file
        assert "PatientName" not in file
        assert file.PatientID == "10004"
    named = DicomStyle(patient_name="DOE^JANE", window_centre=(50, -600), window_width=(400, 1500))
    write_series(tmp_path / "named", patient, scan, named, hu=hu)
    first = read(tmp_path / "named")[0]
    assert first.Modality == "CT"
    assert first.PatientName == "DOE^JANE"
    assert [float(v) for v in first.WindowCenter] == [50, -600]


def test_uids_follow_the_keys(case, tmp_path):
    patient, scan, hu = case
    for name, style in {
        "a": DicomStyle(key="k", series_key="1"),
        "b": DicomStyle(key="k", series_key="2"),
        "c": DicomStyle(key="other", series_key="1"),
    }.items():
        write_series(tmp_path / name, patient, scan, style, hu=hu)
    a, b, c = (read(tmp_path / name)[0] for name in "abc")
    assert a.StudyInstanceUID == b.StudyInstanceUID != c.StudyInstanceUID
    assert len({a.SeriesInstanceUID, b.SeriesInstanceUID, c.SeriesInstanceUID}) == 3
    uids = {file.SOPInstanceUID for name in "abc" for file in read(tmp_path / name)}
    assert len(uids) == 3 * scan.slices
    assert all(uid.is_valid for uid in uids)


def test_a_picture_of_another_shape_is_refused(case, tmp_path):
    patient, scan, hu = case
    with pytest.raises(ValueError, match="the scan has"):
        write_series(tmp_path, patient, scan, hu=hu[:-1])
