"""DICOM to HU: order, gaps, sign and slope, against known values and measured truths."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from tests.support.ct_files import body, write_slices
from voco_data.dicom.header import parse_header, read_dataset
from voco_data.dicom.pixels.decode import FrameReader
from voco_data.dicom.pixels.modality import parse_modality_transforms
from voco_data.dicom.series.reader import read_series
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes.slice_spacing import GapPolicy
from voco_data.volumes.volume import Volume


def read(paths: list[Path]) -> Volume:
    return read_series(paths, gaps=GapPolicy(0.05), min_slices=3)


def decode_hu(dataset: Dataset, shape: tuple[int, int]) -> npt.NDArray[np.int16]:
    return parse_modality_transforms(dataset, 1)[0].to_hu(FrameReader(dataset, shape).read(0))


def refusal(paths: list[Path]) -> Reason:
    with pytest.raises(SeriesRefused) as caught:
        read(paths)
    return caught.value.reason


def test_order_is_by_position_not_by_name_or_number(tmp_path: Path) -> None:
    hu = body()
    names = [f"{(index * 7) % 24:02d}" for index in range(24)]
    paths = write_slices(
        tmp_path, hu, names=names, tags={"InstanceNumber": lambda i: 100 - i, "SliceLocation": 0}
    )
    random.Random(0).shuffle(paths)
    volume = read(paths)
    assert np.array_equal(volume.hu, hu)
    assert volume.instance_numbers == tuple(100 - i for i in range(24))
    assert volume.geometry.spacing_mm == (5.0, 2.0, 2.0)


def test_z_that_falls_is_the_same_volume(tmp_path: Path) -> None:
    hu = body()
    down = write_slices(tmp_path / "down", hu[::-1], origin_mm=(0, 0, 115), step_mm=(0, 0, -5.0))
    up = write_slices(tmp_path / "up", hu, origin_mm=(0, 0, 0))
    assert read(down).input_digest() == read(up).input_digest()


def test_rows_that_run_upward_have_a_normal_to_the_feet(tmp_path: Path) -> None:
    hu = body()
    paths = write_slices(tmp_path, hu, orientation=(1, 0, 0, 0, -1, 0))
    volume = read(paths)
    assert np.array_equal(volume.hu, hu[::-1])  # along the normal, which points to -z
    canonical = volume.geometry.canonical(5.0)
    assert np.array_equal(canonical.to_canonical(volume.hu), hu[:, ::-1])


def test_signed_twelve_bits_in_sixteen(tmp_path: Path) -> None:
    # Stored values: 4095 -> -1, 2048 -> -2048, 2047 -> 2047.
    (path,) = write_slices(tmp_path, np.zeros((1, 2, 2), np.int16))
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 1
    dataset.RescaleIntercept = 0
    dataset.PixelData = np.array([4095, 2048, 2047, 0], "<u2").tobytes()
    assert decode_hu(dataset, (2, 2)).ravel().tolist() == [-1, -2048, 2047, 0]


def test_high_bit_above_the_stored_bits(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, np.zeros((1, 1, 2), np.int16))
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit, dataset.RescaleIntercept = 12, 15, 0
    dataset.PixelData = np.array([0x123F, 0xFFF0], "<u2").tobytes()
    assert decode_hu(dataset, (1, 2)).ravel().tolist() == [0x123, 0xFFF]


def test_fractional_slope_rounds_half_to_even(tmp_path: Path) -> None:
    (path,) = write_slices(tmp_path, np.zeros((1, 1, 4), np.int16))
    dataset = pydicom.dcmread(path)
    dataset.RescaleSlope, dataset.RescaleIntercept = 0.5, -10.0
    dataset.PixelData = np.array([1, 3, 4, 100], "<u2").tobytes()
    assert decode_hu(dataset, (1, 4)).ravel().tolist() == [-10, -8, -8, 40]


def test_missing_slope_and_intercept_mean_one_and_zero(tmp_path: Path) -> None:
    hu = body()
    tags = {"RescaleSlope": None, "RescaleIntercept": None}
    assert np.array_equal(read(write_slices(tmp_path, hu, tags=tags)).hu, hu + 1024)


def test_rle_equals_uncompressed(tmp_path: Path) -> None:
    hu = body()
    raw = read(write_slices(tmp_path / "raw", hu))
    rle = read(write_slices(tmp_path / "rle", hu, rle=True))
    assert rle.input_digest() == raw.input_digest()
    assert rle.transfer_syntax == "1.2.840.10008.1.2.5"


def test_a_missing_modality_tag_says_nothing(tmp_path: Path) -> None:
    paths = write_slices(tmp_path, body(), tags={"Modality": None})
    assert read(paths).hu.shape == (24, 60, 60)


def test_a_gap_is_named(tmp_path: Path) -> None:
    paths = write_slices(tmp_path, body())
    assert refusal(paths[:9] + paths[10:]) == Reason.MISSING_SLICES


def test_uneven_spacing_is_named(tmp_path: Path) -> None:
    z = lambda i: [-60, -60, 5.0 * i + (1.7 if i > 9 else 0)]  # noqa: E731
    paths = write_slices(tmp_path, body(), tags={"ImagePositionPatient": z})
    assert refusal(paths) == Reason.UNEVEN_SPACING


def test_positions_rounded_to_a_tenth_are_even(tmp_path: Path) -> None:
    z = lambda i: [-60, -60, round(0.75 * i, 1)]  # noqa: E731
    paths = write_slices(tmp_path, body(), tags={"ImagePositionPatient": z})
    assert read(paths).geometry.spacing_mm[0] == pytest.approx(0.75, abs=0.005)


def test_equal_duplicates_are_dropped_and_different_ones_refused(tmp_path: Path) -> None:
    hu = body()
    paths = write_slices(tmp_path / "a", hu)
    again = write_slices(tmp_path / "b", hu[:3])
    volume = read(paths + again)
    assert np.array_equal(volume.hu, hu)
    assert "dropped_duplicates" in volume.flags
    other = write_slices(tmp_path / "c", hu[:3] + 1)
    assert refusal(paths + other) == Reason.DUPLICATE_POSITIONS


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelSpacing": None}, Reason.MISSING_GEOMETRY),
        ({"ImagePositionPatient": None}, Reason.MISSING_GEOMETRY),
        ({"PixelSpacing": [0, 0]}, Reason.BAD_GEOMETRY),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, Reason.BAD_GEOMETRY),
        ({"Modality": "MR"}, Reason.NOT_CT),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, Reason.DERIVED),
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN),
        ({"BitsAllocated": 8}, Reason.DERIVED),
        ({"NumberOfFrames": 4}, Reason.MISSING_GEOMETRY),
        ({"Rows": 61}, Reason.UNREADABLE),
        ({"PixelData": None}, Reason.UNREADABLE),
        ({"RescaleSlope": 0}, Reason.UNREADABLE),
        ({"BitsStored": 17}, Reason.UNREADABLE),
        ({"PixelSpacing": lambda i: [2, 2 + i // 12]}, Reason.MIXED_GEOMETRY),
    ],
)
def test_what_is_not_a_ct_volume_has_a_reason(
    tmp_path: Path, tags: dict[str, Any], reason: Reason
) -> None:
    assert refusal(write_slices(tmp_path, body(), tags=tags)) == reason


@pytest.mark.parametrize("syntax", [b"1.2.840.10008.1.9.9", b"1.2.3.4.5.6.7.8.9.0"])
def test_a_transfer_syntax_without_a_decoder_is_refused(tmp_path: Path, syntax: bytes) -> None:
    paths = write_slices(tmp_path, body())
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1", syntax, 1))
    assert refusal(paths) == Reason.UNSUPPORTED_SYNTAX


def test_an_eight_bit_jpeg_is_refused(tmp_path: Path) -> None:
    paths = write_slices(tmp_path, body())
    for path in paths:
        dataset = pydicom.dcmread(path)
        frame = imagecodecs.jpeg8_encode((dataset.pixel_array >> 4).astype(np.uint8))
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
        dataset.save_as(path)
    assert refusal(paths) == Reason.UNSUPPORTED_SYNTAX


def test_slices_off_a_straight_line_are_mixed(tmp_path: Path) -> None:
    """A jump of the table to the side by 30 mm, half-way."""
    moved = {"ImagePositionPatient": lambda k: [-60 + 30 * (k >= 12), -60, 5 * k]}
    with pytest.raises(SeriesRefused, match="off a straight line") as caught:
        read(write_slices(tmp_path, body(), tags=moved))
    assert caught.value.reason == Reason.MIXED_GEOMETRY


@pytest.mark.parametrize("missing", [["Rows"], ["Columns"], ["Rows", "Columns"]])
def test_a_whole_file_without_a_matrix_is_not_called_torn(
    tmp_path: Path, missing: list[str]
) -> None:
    paths = write_slices(tmp_path, body(), tags=dict.fromkeys(missing))
    with pytest.raises(SeriesRefused, match=f"no {', '.join(missing)} in the header"):
        read(paths)
    whole = write_slices(tmp_path / "torn", body())[0]
    data = whole.read_bytes()
    whole.write_bytes(data[: data.index(b"\x28\x00\x10\x00")])
    with pytest.raises(SeriesRefused, match="ends before its rows and columns"):
        read([whole])


@pytest.mark.parametrize("far", [1e30, -2e5, 1e308])
def test_coordinates_beyond_any_scanner_are_bad_geometry(tmp_path: Path, far: float) -> None:
    tags = {"ImagePositionPatient": lambda k: [-60, -60, far if k == 4 else 5 * k]}
    with pytest.raises(SeriesRefused) as caught:
        read(write_slices(tmp_path, body(), tags=tags))
    assert caught.value.reason == Reason.BAD_GEOMETRY
    assert caught.value.detail.startswith("file 5 of 24: ImagePositionPatient is ")
    assert len(caught.value.detail) < 100
    assert refusal(write_slices(tmp_path / "x", body(), tags={"PixelSpacing": [1, 2e5]})) == (
        Reason.BAD_GEOMETRY
    )


@pytest.mark.parametrize(
    ("tags", "flag"),
    [
        ({"LossyImageCompression": "01"}, "lossy"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "monochrome1"),
    ],
)
def test_remarks_of_the_header_are_flags_and_hu_stay(
    tmp_path: Path, tags: dict[str, Any], flag: str
) -> None:
    hu = body()
    volume = read(write_slices(tmp_path, hu, tags=tags))
    assert volume.flags == (flag,)
    assert np.array_equal(volume.hu, hu)


def test_near_lossless_frames_are_read_with_a_flag(tmp_path: Path) -> None:
    hu = body()
    paths = write_slices(tmp_path, hu)
    for path in paths:
        dataset = pydicom.dcmread(path)
        frame = imagecodecs.jpegls_encode(dataset.pixel_array, level=2)
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.81"
        dataset.save_as(path)
    volume = read(paths)
    assert volume.flags == ("lossy",)
    assert np.abs(volume.hu - hu).max() == 2


def test_a_truncated_file_is_unreadable(tmp_path: Path) -> None:
    paths = write_slices(tmp_path, body())
    paths[4].write_bytes(paths[4].read_bytes()[:-100])
    assert refusal(paths) == Reason.UNREADABLE


@pytest.mark.real_ct
@pytest.mark.parametrize(
    ("folder", "voxels"),
    [
        ("01_tcga_coad_siemens_abdpelvis", (87, 512, 512)),
        ("02_totalseg_siemens_j2k_abdomen", (20, 512, 512)),
        ("04_ibsi_sts036_dicom_nifti_pair/dicom", (68, 192, 192)),
    ],
)
def test_real_series_match_the_measured_hash(
    real_ct: Path, folder: str, voxels: tuple[int, int, int]
) -> None:
    truth = {item["path"]: item for item in json.loads((real_ct / "EXPECTED.json").read_text())}
    volume = read(sorted((real_ct / folder).iterdir()))
    expected = truth[folder]
    assert volume.hu.shape == voxels
    digest = hashlib.sha256(volume.hu.astype("<i2").tobytes()).hexdigest()
    assert digest == expected["sha256_int16_le_zyx_low_to_high"]
    (gap,) = expected["gap_perpendicular_mm"]
    assert volume.geometry.spacing_mm == pytest.approx(
        (float(gap), *expected["pixel_spacing_row_col"])
    )
    assert volume.geometry.origin_mm == pytest.approx(expected["ipp_lowest"])


@pytest.mark.real_ct
def test_every_lossless_encoding_of_one_real_slice_is_bit_equal(real_ct: Path) -> None:
    truth = {item["path"]: item for item in json.loads((real_ct / "EXPECTED.json").read_text())}
    folder = "06_ctimage_transfer_syntaxes"
    reference = truth[f"{folder}/CTImage.dcm"]["sha256_int16_le_zyx_low_to_high"]
    lossless = {"1.2", "1.2.1", "1.2.2", "1.2.1.99", "1.2.5"} | {
        f"1.2.4.{n}" for n in (57, 70, 80, 90)
    }
    seen = set()
    for path in sorted((real_ct / folder).iterdir()):
        dataset = read_dataset(path, pixels=True)
        syntax = str(dataset.file_meta.TransferSyntaxUID).removeprefix("1.2.840.10008.")
        if syntax in lossless:
            header = parse_header(dataset, path)
            hu = decode_hu(dataset, (header.rows, header.columns))
            assert hashlib.sha256(hu.astype("<i2").tobytes()).hexdigest() == reference, path.name
            seen.add(syntax)
    assert seen == lossless


@pytest.mark.real_ct
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("09_bad_geometry/missing_slice", Reason.MISSING_SLICES),
        ("09_bad_geometry/all_slices_same_position", Reason.DUPLICATE_POSITIONS),
        ("11_tiny_ct_series_16x16", Reason.MISSING_SLICES),
    ],
)
def test_real_bad_geometry_is_refused(real_ct: Path, folder: str, reason: Reason) -> None:
    assert refusal(sorted((real_ct / folder).iterdir())) == reason


@pytest.mark.parametrize("extra", [-2, 2, 1000, 0x7FFFFFFF])
def test_a_length_that_is_not_true_is_unreadable(tmp_path: Path, extra: int) -> None:
    paths = write_slices(tmp_path, body())
    data = paths[4].read_bytes()
    head, tail = data[: data.index(b"\xe0\x7f\x10\x00")], data[data.index(b"\xe0\x7f\x10\x00") :]
    claim = int.from_bytes(tail[8:12], "little") + extra
    paths[4].write_bytes(head + tail[:8] + (claim & 0xFFFFFFFF).to_bytes(4, "little") + tail[12:])
    assert refusal(paths) == Reason.UNREADABLE


def test_a_small_tilt_of_many_thin_slices_is_seen(tmp_path: Path) -> None:
    """5 degrees at 0.5 mm: 0.04 mm a step, and 17 mm from the first slice to the last."""
    hu = np.repeat(body((1, 20, 20)), 60, axis=0)
    paths = write_slices(tmp_path, hu, spacing_mm=(0.5, 1.0, 1.0), step_mm=(0, 0.0436, 0.5))
    volume = read(paths)
    assert volume.geometry.is_sheared
    last = volume.geometry.index_to_mm @ (59, 0, 0, 1)
    assert last[:3] == pytest.approx((-60, -60 + 59 * 0.0436, -100 + 59 * 0.5), abs=1e-3)


def test_small_gap_errors_do_not_add_up(tmp_path: Path) -> None:
    hu = np.repeat(body((1, 20, 20)), 80, axis=0)
    z = lambda i: [-60, -60, i * 1.0 if i < 40 else 40 + (i - 40) * 1.1]  # noqa: E731
    paths = write_slices(tmp_path, hu, tags={"ImagePositionPatient": z})
    assert refusal(paths) == Reason.UNEVEN_SPACING


def test_orientation_that_jitters_far_from_the_origin_is_even(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    jitter = [rng.uniform(-4e-4, 4e-4, 6).round(6).tolist() for _ in range(24)]
    turn = lambda i: [float(a + b) for a, b in zip((1, 0, 0, 0, 1, 0), jitter[i], strict=True)]  # noqa: E731
    paths = write_slices(
        tmp_path, body(), origin_mm=(-400, -400, -800), tags={"ImageOrientationPatient": turn}
    )
    assert read(paths).geometry.spacing_mm[0] == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("value", ["7A", "1\\2", ""])
def test_an_instance_number_that_is_none_costs_nothing(tmp_path: Path, value: str) -> None:
    paths = write_slices(tmp_path, body())
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x00200013, "LO", value)
        dataset.save_as(path)
    assert read(paths).instance_numbers == (-1,) * 24


def test_a_scout_among_the_slices_is_left_out(tmp_path: Path) -> None:
    hu = body()
    kind = lambda i: ["ORIGINAL", "PRIMARY", "LOCALIZER" if i == 0 else "AXIAL"]  # noqa: E731
    volume = read(write_slices(tmp_path, hu, tags={"ImageType": kind}))
    assert np.array_equal(volume.hu, hu[1:])
    assert volume.flags == ("other_objects",)


def test_sign_of_an_encoded_frame_of_fewer_bits(tmp_path: Path) -> None:
    """A codec that kept 13 bits of signed pixels: 8191 is -1."""
    (path,) = write_slices(tmp_path, np.zeros((1, 8, 8), np.int16))
    dataset = pydicom.dcmread(path)
    plane = np.full((8, 8), 8191, np.uint16)
    plane[0, 0] = 5
    frame = imagecodecs.jpeg2k_encode(plane, codecformat="J2K", reversible=True, bitspersample=13)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
    assert decode_hu(dataset, (8, 8)).ravel()[:2].tolist() == [5, -1]
