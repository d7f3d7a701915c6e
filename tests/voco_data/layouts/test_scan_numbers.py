"""InstanceNumber tells one scan from several where positions and thickness do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.headers import indexed, write_header, write_multi_frame
from tests.voco_data.layouts.test_scans import alternate, sizes, write_scan

STEP_MM = 5.0


def ascending(k: int) -> int:
    return k + 1


ALTERNATING = [
    {"PixelSpacing": alternate([1, 1], [1.004, 1.004])},
    {"ImageOrientationPatient": alternate([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0.9999, -0.0087])},
    {"PatientID": alternate("p", "q")},
    {"PatientID": alternate("p", "")},
    {"StudyInstanceUID": alternate("1.1", "1.9")},
    {"AcquisitionNumber": alternate(1, 2)},
    {"SeriesNumber": alternate(1, 2)},
    {"AcquisitionTime": lambda k: f"1000{k // 2 + 12 * (k % 2):02d}"},
]


@pytest.mark.parametrize("numbers", [ascending, lambda k: 90 - 2 * k], ids=["up", "down"])
@pytest.mark.parametrize("tags", ALTERNATING, ids=lambda tags: next(iter(tags)))
def test_reconstructions_with_overlap_are_never_halved(
    tmp_path: Path, tags: dict[str, Any], numbers: Any
) -> None:
    write_scan(tmp_path, 24, SliceThickness=2 * STEP_MM, InstanceNumber=numbers, **tags)
    assert sizes(tmp_path) == [24]


def test_reconstructions_with_overlap_over_two_folders_are_never_halved(tmp_path: Path) -> None:
    write_scan(tmp_path / "a", 24, SliceThickness=2 * STEP_MM, InstanceNumber=ascending)
    (tmp_path / "b").mkdir()
    for path in sorted((tmp_path / "a").iterdir())[1::2]:
        path.rename(tmp_path / "b" / path.name)
    assert sizes(tmp_path) == [24]


TELLING = [
    {"StudyInstanceUID": ("1.1", "1.9")},
    {"SeriesNumber": (3, 4)},
    {"AcquisitionTime": ("100000", "100500")},
    {"AcquisitionDate": ("20240101", "20250101")},
    {"KVP": (80, 140)},
    {"SeriesDescription": ("arterial", "venous")},
]


@pytest.mark.parametrize("gap", [0.6, 0.7, 0.5])
@pytest.mark.parametrize("value", TELLING, ids=lambda value: next(iter(value)))
def test_two_scans_with_gaps_between_slices_are_never_blended(
    tmp_path: Path, value: dict[str, Any], gap: float
) -> None:
    ((key, values),) = value.items()
    for k, one in enumerate(values):
        write_scan(
            tmp_path,
            name=str(k),
            start=k * STEP_MM / 2,
            SliceThickness=gap * STEP_MM,
            InstanceNumber=ascending,
            **{key: one},
        )
    assert sizes(tmp_path) == [14, 14]


@pytest.mark.parametrize("distance", [STEP_MM, 11.0, 200.0])
def test_scans_of_one_uid_that_follow_each_other_are_two(tmp_path: Path, distance: float) -> None:
    for k, folder in enumerate("ab"):
        start = k * (13 * STEP_MM + distance)
        write_scan(tmp_path / folder, start=start, InstanceNumber=ascending)
    assert sizes(tmp_path) == [14, 14]


def test_numbers_that_begin_anew_in_each_acquisition_are_one_scan(tmp_path: Path) -> None:
    for k in range(2):
        write_scan(
            tmp_path,
            name=str(k),
            start=k * 14 * STEP_MM,
            AcquisitionNumber=k,
            InstanceNumber=ascending,
        )
    assert sizes(tmp_path) == [28]


def test_equal_numbers_of_all_slices_tell_nothing(tmp_path: Path) -> None:
    write_scan(tmp_path, 24, InstanceNumber=1, SeriesNumber=alternate(1, 2))
    assert sizes(tmp_path) == [24]


def test_some_slices_without_thickness_are_as_thick_as_the_others(tmp_path: Path) -> None:
    write_scan(
        tmp_path,
        24,
        AcquisitionNumber=alternate(1, 2),
        SliceThickness=lambda k: None if k == 7 else STEP_MM,
    )
    assert sizes(tmp_path) == [24]


def test_thickness_tells_scans_over_the_same_range_apart(tmp_path: Path) -> None:
    write_scan(tmp_path, 14, name="thick")
    for k in range(66):
        position = [0, 0, float(k)]
        write_header(tmp_path / f"thin{k}", ImagePositionPatient=position, SliceThickness=1)
    assert sizes(tmp_path) == [14, 66]


@pytest.mark.parametrize("place", ["c", ""])
def test_one_stray_slice_does_not_blend_two_folders(tmp_path: Path, place: str) -> None:
    for k, folder in enumerate("ab"):
        write_scan(tmp_path / folder, start=k * STEP_MM / 2)
    write_header(tmp_path / place / "x", ImagePositionPatient=[0, 0, 14 * STEP_MM])
    assert sizes(tmp_path) == [1, 14, 14]


def test_a_time_of_a_whole_scan_tells_scans_of_other_sizes(tmp_path: Path) -> None:
    write_scan(tmp_path, 30, name="a", AcquisitionTime="100000")
    write_scan(tmp_path, 20, name="b", AcquisitionTime="100500")
    write_scan(tmp_path, 12, name="c", AcquisitionTime="101000")
    assert sizes(tmp_path) == [12, 20, 30]


def test_names_of_folders_do_not_depend_on_source(tmp_path: Path) -> None:
    for k, folder in enumerate("ab"):
        write_scan(tmp_path / "x" / folder, start=k * STEP_MM / 2)
    inner, outer = (
        [entry.series_uid for entry in indexed(source)[0]] for source in (tmp_path / "x", tmp_path)
    )
    assert inner == outer
    assert len(set(inner)) == 2


MULTI_FRAME = [
    {"SeriesNumber": (1, 2)},
    {"StudyInstanceUID": ("1.1", "1.9")},
    {"PatientID": ("p", "q")},
    {"AcquisitionDateTime": ("20240101100000", "20240102100000")},
]


@pytest.mark.parametrize("offset", [0.0, 2.5, 1.0])
@pytest.mark.parametrize("value", MULTI_FRAME, ids=lambda value: next(iter(value)))
def test_multi_frame_objects_of_one_uid_are_series_of_their_own(
    tmp_path: Path, value: dict[str, Any], offset: float
) -> None:
    ((key, values),) = value.items()
    for k, one in enumerate(values):
        depths = k * offset + STEP_MM * np.arange(12)
        write_multi_frame(tmp_path / f"{k}", depths.tolist(), SliceThickness=5, **{key: one})
    assert sizes(tmp_path) == [1, 1]


def test_one_scan_over_two_multi_frame_objects_is_one_series(tmp_path: Path) -> None:
    write_multi_frame(tmp_path / "a", [5.0 * k for k in range(12)], SliceThickness=5)
    write_multi_frame(tmp_path / "b", [5.0 * k for k in range(23, 11, -1)], SliceThickness=5)
    assert sizes(tmp_path) == [2]
