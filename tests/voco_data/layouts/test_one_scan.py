"""Parts that complete each other are one scan, whatever splits them; scans stay apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tests.support.headers import indexed, write_header, write_stack
from voco_data.layouts.one_scan import are_one_scan

Z = (0.0, 0.0, 1.0)


def sizes(source: Path) -> list[int]:
    return sorted(len(entry.files) for entry in indexed(source)[0])


def write_slice(folder: Path, k: int, step: float = 5.0, **tags: Any) -> None:
    write_header(folder / f"{k:03d}.dcm", **{"ImagePositionPatient": [0, 0, step * k]} | tags)


def line(depths: list[float]) -> np.ndarray:
    return np.array([[10.0, -20.0, depth] for depth in depths])


@given(
    st.integers(8, 60),
    st.sampled_from([0.7, 1.0, 2.5, 5.0, 10.0]),
    st.floats(-1000, 1000),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_any_division_of_an_even_stack_is_one_scan(
    count: int, step: float, start: float, random: Any
) -> None:
    depths = [start + step * k for k in range(count)]
    for parts in (
        [depths[::2], depths[1::2]],
        [depths[: count // 2], depths[count // 2 :]],
        [[depth] for depth in depths],
    ):
        random.shuffle(parts)
        assert are_one_scan([line(part) for part in parts], Z)


@given(st.integers(8, 40), st.floats(0.1, 0.4))
@settings(deadline=None)
def test_scans_that_are_shifted_or_share_positions_are_not_one(count: int, shift: float) -> None:
    depths = [5.0 * k for k in range(count)]
    assert not are_one_scan([line(depths), line([d + 5 * shift for d in depths])], Z)
    assert not are_one_scan([line(depths), line(depths[2:])], Z)
    beside = line([depth + 2.5 for depth in depths])
    beside[:, 0] += 30.0
    assert not are_one_scan([line(depths), beside], Z)
    far = [5.0 * count + 100 + depth for depth in depths]
    assert not are_one_scan([line(depths), line(far)], Z)


def test_missing_slices_do_not_make_two_scans() -> None:
    depths = [2.0 * k for k in range(40) if k not in (11, 20, 21)]
    assert are_one_scan([line(depths[::2]), line(depths[1::2])], Z)
    assert are_one_scan([line(depths[:19]), line(depths[19:])], Z)


def test_a_study_for_each_slice_is_one_scan(tmp_path: Path) -> None:
    for k in range(12):
        write_slice(tmp_path, k, StudyInstanceUID=f"1.1.{k}")
    (entry,), odd = indexed(tmp_path)
    assert (len(entry.files), entry.series_uid, entry.study_uid) == (12, "1.2", "1.1.0")
    assert odd == []


@pytest.mark.parametrize("is_second", [lambda k: k % 2 == 1, lambda k: k >= 6])
@pytest.mark.parametrize(
    "other",
    [{"PatientID": "q"}, {"StudyInstanceUID": "1.9"}, {"PatientID": "a", "StudyInstanceUID": "9"}],
)
def test_a_second_patient_or_study_inside_a_series_is_one_series(
    tmp_path: Path, is_second: Any, other: dict[str, str]
) -> None:
    for k in range(12):
        write_slice(tmp_path, k, **(other if is_second(k) else {}))
    (entry,), _ = indexed(tmp_path)
    assert len(entry.files) == 12
    assert entry.patient_id == min("p", other.get("PatientID", "p"))


def test_a_patient_id_that_some_slices_lack_is_that_of_the_others(tmp_path: Path) -> None:
    for k in range(12):
        write_slice(tmp_path, k, **({"PatientID": ""} if k % 2 else {}))
    assert [(e.patient_id, len(e.files)) for e in indexed(tmp_path)[0]] == [("p", 12)]


def test_phases_of_two_studies_stay_two_and_keep_their_ids(tmp_path: Path) -> None:
    """Half a step apart, of two acquisitions: the traits tell them apart."""
    write_stack(tmp_path / "a", 10, AcquisitionNumber=1)
    for k in range(10):
        tags = {"AcquisitionNumber": 2, "PatientID": "q", "StudyInstanceUID": "1.9"}
        write_header(tmp_path / "b" / str(k), ImagePositionPatient=[0, 0, 5 * k + 2.5], **tags)
    found = [(e.patient_id, e.study_uid, len(e.files)) for e in indexed(tmp_path)[0]]
    assert found == [("p", "1.1", 10), ("q", "1.9", 10)]


@pytest.mark.parametrize("n_patients", [2, 5])
def test_one_uid_for_all_scans_of_an_archive(tmp_path: Path, n_patients: int) -> None:
    for k in range(n_patients):
        for j in range(9 + k):
            position = [-250 + k, -250, 5 * j - 30.0 * k]
            write_header(
                tmp_path / f"f{k}" / str(j), PatientID=f"p{k}", ImagePositionPatient=position
            )
    assert sizes(tmp_path) == [9 + k for k in range(n_patients)]


def test_one_uid_and_one_patient_for_scans_in_folders_of_their_own(tmp_path: Path) -> None:
    for name, count, offset in (("a", 9, 0.0), ("b", 12, 10.0)):
        for k in range(count):
            write_header(
                tmp_path / name / str(k),
                ImagePositionPatient=[0, 0, 5 * k + offset],
                PatientComments=f"{name}{k}" * 50,
            )
    entries, _ = indexed(tmp_path)
    assert sorted((e.source, len(e.files)) for e in entries) == [("a", 9), ("b", 12)]
    assert len({e.series_uid for e in entries}) == 2


ROUNDED: list[dict[str, Any]] = [
    {"ImageOrientationPatient": [0.999999, 0.0015, 0, -0.0015, 0.999999, 0]},
    {"ImageOrientationPatient": [1, 0.01, 0, -0.01, 1, 0]},
    {"PixelSpacing": [1.003, 1.003]},
    {"PixelSpacing": [1.003, 1.003], "ImageOrientationPatient": [1, 0.005, 0, -0.005, 1, 0]},
]


@pytest.mark.parametrize("other", ROUNDED)
@pytest.mark.parametrize("is_second", [lambda k: k % 2 == 1, lambda k: k >= 6])
def test_rounding_never_halves_a_scan(
    tmp_path: Path, other: dict[str, Any], is_second: Any
) -> None:
    for k in range(12):
        write_slice(tmp_path, k, **(other if is_second(k) else {}))
    assert sizes(tmp_path) == [12]


@pytest.mark.parametrize("other", ROUNDED)
def test_rounding_never_halves_two_phases(tmp_path: Path, other: dict[str, Any]) -> None:
    for phase in (1, 2):
        for k in range(12):
            tags = {"AcquisitionNumber": phase} | (other if k % 2 else {})
            write_slice(tmp_path / str(phase), k, **tags)
    assert sizes(tmp_path) == [12, 12]


def test_almost_equal_geometry_of_two_acquisitions_is_two_series(tmp_path: Path) -> None:
    for k in range(24):
        tags = {"AcquisitionNumber": 1} if k % 2 else {"AcquisitionNumber": 2} | ROUNDED[2]
        write_slice(tmp_path, k, **tags)
    assert sizes(tmp_path) == [12, 12]


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("SeriesNumber", [3, 4]),
        ("TemporalPositionIdentifier", [1, 2]),
        ("NominalPercentageOfCardiacPhase", [40.0, 75.0]),
        ("AcquisitionTime", ["120000", "120003.5"]),
        ("ContentTime", ["120000", "120003.5"]),
    ],
)
def test_phases_at_the_same_positions(tmp_path: Path, tag: str, values: list[Any]) -> None:
    for value in values:
        write_stack(tmp_path, 10, prefix=str(value), **{tag: value})
    assert sizes(tmp_path) == [10, 10]
    names = {entry.series_uid for entry in indexed(tmp_path)[0]}
    assert len(names) == 2
    assert all(name.startswith("1.2#") for name in names)


@pytest.mark.parametrize("tag", ["AcquisitionTime", "ContentTime"])
def test_times_of_slices_tell_scans_apart_by_their_order(tmp_path: Path, tag: str) -> None:
    """Each slice has its own time, as in a helical scan; the second phase goes the other way."""
    for k in range(12):
        write_slice(tmp_path / "a", k, **{tag: f"12{k:02d}00.25"})
        write_slice(tmp_path / "b", 11 - k, **{tag: f"12{k + 30:02d}00.25"})
    entries, _ = indexed(tmp_path)
    assert sorted((e.source, len(e.files)) for e in entries) == [("a", 12), ("b", 12)]


def test_times_do_not_shatter_a_scan(tmp_path: Path) -> None:
    for k in range(12):
        write_slice(tmp_path, k, AcquisitionTime=f"12{k:02d}00", ContentTime=f"13{k:02d}00")
    assert sizes(tmp_path) == [12]
    write_header(tmp_path / "again", ImagePositionPatient=[0, 0, 15], AcquisitionTime="125900")
    assert sizes(tmp_path) == [13], "one slice once more is no phase"


def test_cine_of_two_table_positions_is_not_told_by_times(tmp_path: Path) -> None:
    """Ten times at each of two places: no order of times gives whole scans."""
    for table in range(2):
        for time in range(10):
            for k in range(4):
                write_header(
                    tmp_path / f"{table}-{time}-{k}",
                    ImagePositionPatient=[0, 0, 5 * (4 * table + k)],
                    AcquisitionTime=f"1200{10 * table + time:02d}",
                )
    assert sizes(tmp_path) == [80]


def test_a_shuttle_of_contiguous_slices_is_one_scan(tmp_path: Path) -> None:
    for k in range(24):
        write_slice(tmp_path, k, AcquisitionNumber=1 + k % 2, SliceThickness=5)
    assert sizes(tmp_path) == [24]


def test_phases_of_slices_as_thick_as_their_distance_are_two_scans(tmp_path: Path) -> None:
    for k in range(24):
        write_slice(tmp_path, k, AcquisitionNumber=1 + k % 2, SliceThickness=10)
    assert sizes(tmp_path) == [12, 12]


def test_series_of_one_folder_have_sources_of_their_own(tmp_path: Path) -> None:
    write_stack(tmp_path / "s", 5, prefix="a", ConvolutionKernel="soft")
    write_stack(tmp_path / "s", 5, prefix="b", ConvolutionKernel="bone")
    write_stack(tmp_path / "s", 5, prefix="c", SeriesInstanceUID="1.9")
    write_header(tmp_path / "s" / "single", SeriesInstanceUID="1.10")
    write_stack(tmp_path / "alone", 5, SeriesInstanceUID="1.11")
    entries, _ = indexed(tmp_path)
    by_uid = {e.series_uid: e.source for e in entries}
    assert len(set(by_uid.values())) == 5
    assert (by_uid["1.10"], by_uid["1.11"]) == ("s/single", "alone")
    stacks = {uid: source for uid, source in by_uid.items() if uid.startswith("1.2#")}
    assert {uid[3:] for uid in stacks} == {source[1:] for source in stacks.values()}
    assert by_uid["1.9"].startswith("s#")
