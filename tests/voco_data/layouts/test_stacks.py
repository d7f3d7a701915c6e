"""Slices to series: what joins, what splits, and that names, folders and order do not matter."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.support.headers import indexed, reasons, write_header, write_multi_frame, write_stack
from voco_data.layouts.index import index_archive
from voco_data.layouts.stacks import merge_close_values

CORONAL = [1, 0, 0, 0, 0, -1]


def sizes(source: Path) -> list[int]:
    return sorted(len(entry.files) for entry in indexed(source)[0])


def uids(source: Path) -> list[str]:
    return [entry.series_uid for entry in indexed(source)[0]]


def test_one_series_over_two_folders_is_one(tmp_path: Path) -> None:
    write_stack(tmp_path / "a" / "x", 4)
    write_stack(tmp_path / "a" / "y", 4, start=4)
    (entry,), _ = indexed(tmp_path)
    assert (len(entry.files), entry.source, entry.series_uid) == (8, "a", "1.2")


def test_patients_who_share_a_series_uid_never_merge(tmp_path: Path) -> None:
    write_stack(tmp_path, 4, prefix="a")
    write_stack(tmp_path, 4, prefix="b", PatientID="q")
    write_stack(tmp_path, 4, prefix="c", StudyInstanceUID="1.9")
    entries, _ = indexed(tmp_path)
    assert [(e.patient_id, e.study_uid, len(e.files)) for e in entries] == [
        ("p", "1.1", 4),
        ("p", "1.9", 4),
        ("q", "1.1", 4),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"Rows": 20},
        {"PixelSpacing": [1, 1.1]},
        {"ImageOrientationPatient": CORONAL},
        {"AcquisitionNumber": 2},
        {"ConvolutionKernel": ["B70f", "3"]},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]},
        {"EchoNumbers": 2},
    ],
    ids=lambda other: next(iter(other)),
)
def test_two_stacks_of_one_uid_are_two_series(tmp_path: Path, other: dict[str, Any]) -> None:
    first = {"AcquisitionNumber": 1, "ConvolutionKernel": "B30f", "EchoNumbers": 1}
    first |= {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}
    write_stack(tmp_path, 6, prefix="a", **first)
    write_stack(tmp_path, 5, prefix="b", **(first | other))
    assert sizes(tmp_path) == [5, 6]
    names = uids(tmp_path)
    assert len(set(names)) == 2
    assert all(name.startswith("1.2#") and len(name) == 12 for name in names)
    write_stack(tmp_path, 4, start=6, prefix="a", **first)
    assert uids(tmp_path) == names, "more slices are no other series"


@pytest.mark.parametrize("tag", ["AcquisitionNumber", "ConvolutionKernel", "EchoNumbers"])
def test_what_does_not_collide_stays_together(tmp_path: Path, tag: str) -> None:
    for k in range(8):
        write_stack(tmp_path, 1, start=k, **{tag: str(k)})
    assert sizes(tmp_path) == [8]
    assert uids(tmp_path) == ["1.2"]


def test_an_acquisition_a_slice_does_not_shatter_a_series(tmp_path: Path) -> None:
    for k in range(8):
        write_stack(tmp_path, 1, start=k, AcquisitionNumber=k)
    write_stack(tmp_path, 1, start=3, prefix="again", AcquisitionNumber=99)
    assert sizes(tmp_path) == [9]


def test_monitoring_slices_at_one_position_stay_one_series(tmp_path: Path) -> None:
    for k in range(12, 16):
        write_header(tmp_path / str(k), AcquisitionNumber=k)
    assert sizes(tmp_path) == [4]


def test_kernels_of_two_acquisitions_are_four_series(tmp_path: Path) -> None:
    for acquisition in (1, 2):
        for kernel in ("soft", "bone"):
            tags = {"AcquisitionNumber": acquisition, "ConvolutionKernel": kernel}
            write_stack(tmp_path, 5, prefix=f"{acquisition}{kernel}", **tags)
    assert sizes(tmp_path) == [5, 5, 5, 5]
    assert len(set(uids(tmp_path))) == 4


def write_part(folder: Path, name: str, first: float, count: int, **tags: Any) -> None:
    for k in range(count):
        position = [0, 0, round(first + 5 * k, 3)]
        write_header(folder / f"{name}{k:03d}", ImagePositionPatient=position, **tags)


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("AcquisitionNumber", ["1", "2", "3"]),
        ("ConvolutionKernel", ["B30f", "B70f", "B80f"]),
        ("ImageType", ["ORIGINAL", "DERIVED", "OTHER"]),
        ("EchoNumbers", ["1", "2", "3"]),
    ],
)
@pytest.mark.parametrize("count", [2, 3])
def test_phases_one_between_the_other_are_two_series(
    tmp_path: Path, tag: str, values: list[str], count: int
) -> None:
    """A single series of twice the slices would be even, and alternate between phases."""
    for k in range(count):
        write_part(tmp_path, values[k], 5 / count * k, 20, **{tag: values[k]})
    assert sizes(tmp_path) == [20] * count
    assert len(set(uids(tmp_path))) == count


def test_phases_hidden_behind_kernels_are_told_apart(tmp_path: Path) -> None:
    for acquisition, first in ((1, 0.0), (2, 2.5)):
        for kernel, off in (("soft", 0.0), ("bone", 0.7)):
            tags = {"AcquisitionNumber": acquisition, "ConvolutionKernel": kernel}
            write_part(tmp_path, f"{acquisition}{kernel}", first + off, 12, **tags)
    assert sizes(tmp_path) == [12] * 4


@pytest.mark.parametrize("overlap", [0, 1])
def test_parts_that_follow_each_other_stay_together(tmp_path: Path, overlap: int) -> None:
    """Step and shoot: rotations of eight slices, which may meet in a seam."""
    for k in range(5):
        start = 5.0 * (8 * k) - overlap * 7.5 * k
        write_part(tmp_path, f"{k}-", start, 8, AcquisitionNumber=k)
    assert sizes(tmp_path) == [40]


def test_a_few_slices_and_odd_distances_do_not_split(tmp_path: Path) -> None:
    write_part(tmp_path, "a", 0, 20, AcquisitionNumber=1)
    write_part(tmp_path, "b", 52.5, 3, AcquisitionNumber=2)
    for k, z in enumerate((1.0, 7.0, 31.0, 33.0, 71.0)):
        write_header(tmp_path / f"c{k}", ImagePositionPatient=[0, 0, z], AcquisitionNumber=3)
    assert sizes(tmp_path) == [28]


def test_depths_are_along_one_normal_for_a_stack(tmp_path: Path) -> None:
    """Directions jitter within the tolerance, and lie far from the origin: 0.2 mm of depth."""
    for part, kernel in enumerate(("soft", "bone")):
        for k in range(10):
            jitter = ((3 * k + 2 * part) % 5 - 2) * 2e-4
            write_header(
                tmp_path / f"{kernel}{k}",
                ImagePositionPatient=[-250, -250, 5 * k - 1000],
                ImageOrientationPatient=[0.9995, 0, jitter, 0, 0.9995, jitter],
                ConvolutionKernel=kernel,
            )
    assert sizes(tmp_path) == [10, 10]


def test_a_multi_frame_object_counts_its_frames(tmp_path: Path) -> None:
    write_multi_frame(tmp_path / "one", [5.0 * frame for frame in range(7)])
    with index_archive(tmp_path) as cohort:
        assert [(head.n_files, head.n_slices) for head in cohort.heads()] == [(1, 7)]


def test_copies_of_slices_do_not_split(tmp_path: Path) -> None:
    write_stack(tmp_path / "a", 5)
    write_stack(tmp_path / "b", 5)
    assert sizes(tmp_path) == [10]


def test_malformed_values_cost_nothing(tmp_path: Path) -> None:
    write_stack(tmp_path, 5)
    for file in tmp_path.iterdir():
        write_header(file, AcquisitionNumber=7, ImagePositionPatient=[0, 0, 5 * int(file.name)])
        assert b"IS\x02\x007 " in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(b"IS\x02\x007 ", b"IS\x02\x001A"))
    assert sizes(tmp_path) == [5]


def test_jitter_is_one_stack_wherever_it_falls(tmp_path: Path) -> None:
    for k in range(8):
        turn = [1, (k % 2) * 4e-4, 0, 0, 1, 0]
        tags = {"ImageOrientationPatient": turn, "PixelSpacing": [0.7049 + k * 1e-5] * 2}
        write_stack(tmp_path, 1, start=k, **tags)
    assert sizes(tmp_path) == [8]


def test_a_localizer_inside_costs_itself_only(tmp_path: Path) -> None:
    write_stack(tmp_path, 8)
    write_header(tmp_path / "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], Rows=64)
    entries, odd = indexed(tmp_path)
    assert [(e.series_uid, len(e.files)) for e in entries] == [("1.2", 8)]
    assert reasons(odd) == {"scout": "localizer"}


def test_objects_that_are_no_ct_slices_are_rows_of_their_own(tmp_path: Path) -> None:
    write_stack(tmp_path, 8)
    rt_structure_set = "1.2.840.10008.5.1.4.1.1.481.3"
    write_header(tmp_path / "rt", SOPClassUID=rt_structure_set, Modality="RTSTRUCT", Rows=None)
    write_header(tmp_path / "mr", Modality="MR")
    write_header(tmp_path / "shot", ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    write_header(tmp_path / "colour", SamplesPerPixel=3)
    entries, odd = indexed(tmp_path)
    assert [(e.series_uid, len(e.files)) for e in entries] == [("1.2", 8)]
    assert reasons(odd) == {
        "rt": "not_an_image",
        "mr": "not_ct",
        "shot": "derived",
        "colour": "derived",
    }


def test_empty_uids_folder_study_and_geometry_stand_in(tmp_path: Path) -> None:
    blank = {"SeriesInstanceUID": "", "PatientID": "", "StudyInstanceUID": ""}
    write_stack(tmp_path / "a", 4, **blank)
    write_stack(tmp_path / "b", 4, **blank)
    write_stack(tmp_path / "a", 3, prefix="cor", **blank, ImageOrientationPatient=CORONAL)
    write_stack(tmp_path / "a", 2, prefix="study", **blank | {"StudyInstanceUID": "1.7"})
    entries, _ = indexed(tmp_path)
    assert sorted((e.patient_id, len(e.files)) for e in entries) == [
        ("1.7", 2),
        ("a", 3),
        ("a", 4),
        ("b", 4),
    ]
    assert len({e.series_uid for e in entries}) == 4
    before = {e.series_uid for e in entries}
    for k, file in enumerate(sorted((tmp_path / "a").iterdir())):
        file.rename(file.with_name(f"renamed-{99 - k}.dcm"))
    assert {e.series_uid for e in indexed(tmp_path)[0]} == before


Slice = tuple[str, int, str, int, int, str]


@st.composite
def places(draw: st.DrawFn, count: int) -> list[str]:
    folder = st.sampled_from(["", "a/", "b/", "a/c/", "DICOM/S0/"])
    names = draw(st.permutations(range(count)))
    return [f"{draw(folder)}{name:04d}" for name in names]


@st.composite
def archives(draw: st.DrawFn) -> tuple[list[Slice], list[str], list[str]]:
    """Slices (patient, series, orientation, acquisition, position, kernel), and two placements."""
    stacks = draw(
        st.lists(
            st.tuples(
                st.sampled_from("pq"),
                st.integers(1, 2),
                st.sampled_from(["axial", "coronal"]),
                st.integers(1, 2),
                st.sampled_from(["soft", "bone"]),
            ),
            min_size=1,
            max_size=5,
            unique=True,
        )
    )
    slices = [
        (patient, series, turn, acquisition, k, kernel)
        for patient, series, turn, acquisition, kernel in stacks
        for k in range(draw(st.integers(2, 4)))
    ]
    return slices, draw(places(len(slices))), draw(places(len(slices)))


def formed(slices: list[Slice], names: list[str]) -> set[tuple[str, str, frozenset[Slice]]]:
    with tempfile.TemporaryDirectory() as folder:
        for values, name in zip(slices, names, strict=True):
            patient, series, turn, acquisition, k, kernel = values
            axial = turn == "axial"
            write_header(
                Path(folder, name),
                PatientID=patient,
                SeriesInstanceUID=f"1.2.{series}",
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0] if axial else CORONAL,
                ImagePositionPatient=[0, 0, 5 * k] if axial else [0, 5 * k, 0],
                AcquisitionNumber=acquisition,
                ConvolutionKernel=kernel,
            )
        by_name = dict(zip(names, slices, strict=True))
        entries, odd = indexed(Path(folder))
        assert not odd
        return {
            (e.patient_id, e.series_uid, frozenset(by_name[file] for file in e.files))
            for e in entries
        }


@given(archives())
@settings(max_examples=40, deadline=None)
def test_names_folders_and_order_do_not_matter(
    archive: tuple[list[Slice], list[str], list[str]],
) -> None:
    slices, here, there = archive
    first = formed(slices, here)
    assert formed(slices, there) == first
    assert sum(len(members) for *_, members in first) == len(slices)
    assert len({(patient, uid) for patient, uid, _ in first}) == len(first)
    for _, _, members in first:
        assert len({slice_[:3] for slice_ in members}) == 1  # patient, UID, orientation
        positions = [slice_[4] for slice_ in members]
        assert len(set(positions)) == len(positions), "what collides is told apart here"


GEOMETRY = st.tuples(
    st.integers(15, 17),
    st.just(16),
    st.just(0),
    *[st.floats(0.5, 0.502)] * 2,
    *[st.floats(-0.002, 0.002)] * 6,
)


@given(st.lists(GEOMETRY, min_size=1, max_size=20), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_geometries_are_grouped_whatever_their_order(values: list[Any], random: Any) -> None:
    lows = dict(zip(values, merge_close_values(values), strict=True))
    shuffled = list(values)
    random.shuffle(shuffled)
    assert dict(zip(shuffled, merge_close_values(shuffled), strict=True)) == lows
    for one in values:
        for other in values:
            if one[0] == other[0] and max(abs(a - b) for a, b in zip(one, other)) < 4e-4:  # noqa: B905
                assert json.dumps(lows[one]) == json.dumps(lows[other])
            if one[0] != other[0]:
                assert lows[one] != lows[other]


def test_values_that_no_scanner_writes_do_not_stop_the_index(tmp_path: Path) -> None:
    for k, value in enumerate(["1e308", "-1e308", "1e-320", "0", "-0"]):
        write_header(
            tmp_path / str(k),
            ImagePositionPatient=[value] * 3,
            ImageOrientationPatient=[value] * 6,
            PixelSpacing=[value] * 2,
            AcquisitionNumber=k,
        )
    assert sum(sizes(tmp_path)) == 5
