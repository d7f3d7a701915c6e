"""Slices with a fault in their header, empty and torn files: none is lost without a word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from tests.support.headers import indexed, reasons, write_header, write_stack
from voco_data.layouts.faulty_slices import name_shape

NO_POSITION = {"ImagePositionPatient": None}


def break_commas(path: Path) -> None:
    data = path.read_bytes()
    assert b"1.5\\1.5 " in data
    path.write_bytes(data.replace(b"1.5\\1.5 ", b"1,5\\1,5 "))


def write_dcm_stack(folder: Path, count: int, **tags: object) -> None:
    for k in range(count):
        write_header(folder / f"{k:03d}.dcm", **{"ImagePositionPatient": [0, 0, 5 * k]} | tags)


def test_a_series_without_positions_is_one_series(tmp_path: Path) -> None:
    write_dcm_stack(tmp_path / "bad", 9, **NO_POSITION, PatientID="LOST", SeriesInstanceUID="1.7")
    write_dcm_stack(tmp_path / "good", 9)
    entries, odd = indexed(tmp_path)
    found = [(e.patient_id, e.series_uid, e.study_uid, e.source, len(e.files)) for e in entries]
    assert found == [("LOST", "1.7", "1.1", "bad", 9), ("p", "1.2", "1.1", "good", 9)]
    assert odd == []


def test_a_series_with_decimal_commas_is_one_series(tmp_path: Path) -> None:
    write_dcm_stack(tmp_path, 9, PixelSpacing=[1.5, 1.5])
    for file in tmp_path.iterdir():
        break_commas(file)
    assert [(e.series_uid, len(e.files)) for e in indexed(tmp_path)[0]] == [("1.2", 9)]


def test_one_study_for_each_slice_without_positions_is_one_series(tmp_path: Path) -> None:
    for k in range(9):
        tags = {"StudyInstanceUID": str(generate_uid())}
        write_header(tmp_path / f"{k}.dcm", **NO_POSITION, **tags)
    assert [len(e.files) for e in indexed(tmp_path)[0]] == [9]


SHARED_UID = [
    {"ConvolutionKernel": ("B30f", "B70f")},
    {"SeriesNumber": (1, 2)},
    {"StudyInstanceUID": ("1.1", "1.9")},
    {},
]


@pytest.mark.parametrize("place", [0, 4, 8])
@pytest.mark.parametrize("value", SHARED_UID, ids=lambda value: next(iter(value), "folder"))
def test_a_slice_without_position_joins_its_own_scan_of_a_shared_uid(
    tmp_path: Path, value: dict[str, Any], place: int
) -> None:
    for k, folder in enumerate("ab"):
        tags = {key: values[k] for key, values in value.items()}
        for number in range(9):
            position = [0, 0, 5 * number + 2.5 * k]
            write_header(
                tmp_path / folder / f"{number}.dcm",
                ImagePositionPatient=None if (folder, number) == ("b", place) else position,
                SliceThickness=5,
                **tags,
            )
    entries, odd = indexed(tmp_path)
    assert sorted((e.source, len(e.files)) for e in entries) == [("a", 9), ("b", 9)]
    assert odd == []


def test_a_slice_that_may_belong_to_two_scans_flags_both(tmp_path: Path) -> None:
    for time in ("100000", "100500"):
        for number in range(9):
            write_header(
                tmp_path / f"{time}-{number}.dcm",
                ImagePositionPatient=[0, 0, 5 * number],
                AcquisitionTime=time,
            )
    write_header(tmp_path / "x.dcm", **NO_POSITION)
    entries, odd = indexed(tmp_path)
    assert [(len(entry.files), entry.flags) for entry in entries] == [(9, ("lost_files",))] * 2
    assert reasons(odd) == {"x.dcm": "missing_geometry"}


def test_a_scan_without_positions_is_not_part_of_another_scan(tmp_path: Path) -> None:
    write_dcm_stack(tmp_path / "a", 9, SeriesNumber=1)
    write_dcm_stack(tmp_path / "b", 9, SeriesNumber=2, **NO_POSITION)
    found = [(entry.source, len(entry.files)) for entry in indexed(tmp_path)[0]]
    assert sorted(found) == [("a", 9), ("b", 9)]


@pytest.mark.parametrize("place", [0, 4, 8])
def test_one_slice_without_position_stays_in_its_series(tmp_path: Path, place: int) -> None:
    write_dcm_stack(tmp_path, 9)
    write_header(tmp_path / f"{place:03d}.dcm", **NO_POSITION)
    (entry,), odd = indexed(tmp_path)
    assert (len(entry.files), entry.series_uid, odd) == (9, "1.2", [])


def test_a_slice_of_another_size_with_a_fault_is_a_series_of_its_own(tmp_path: Path) -> None:
    write_dcm_stack(tmp_path, 9)
    write_header(tmp_path / "dose.dcm", **NO_POSITION, Rows=64)
    entries, _ = indexed(tmp_path)
    assert sorted((len(e.files), e.series_uid[:4]) for e in entries) == [(1, "1.2#"), (9, "1.2")]


@pytest.mark.parametrize("content", [b"", b"lost", "cut in the header", "cut after the meta"])
def test_a_lost_file_belongs_to_the_series_of_its_folder(
    tmp_path: Path, content: bytes | str
) -> None:
    write_dcm_stack(tmp_path / "a", 9)
    write_dcm_stack(tmp_path / "b", 9, SeriesInstanceUID="1.3")
    file = tmp_path / "a" / "008.dcm"
    whole = file.read_bytes()
    if isinstance(content, str):
        at = {"cut in the header": b"\x20\x00\x0d\x00", "cut after the meta": b"\x08\x00\x16\x00"}
        content = whole[: whole.index(at[content])]
    file.write_bytes(content)
    entries, odd = indexed(tmp_path)
    assert {e.series_uid: len(e.files) for e in entries} == {"1.2": 9, "1.3": 9}
    assert odd == []
    assert not any(e.flags for e in entries)


def test_a_lost_file_beside_several_series_flags_them(tmp_path: Path) -> None:
    write_dcm_stack(tmp_path, 9)
    for k in range(9):
        position = {"ImagePositionPatient": [0, 0, 5 * k]}
        write_header(tmp_path / f"x{k}.dcm", **position, SeriesInstanceUID="1.3")
    write_dcm_stack(tmp_path / "other", 9, SeriesInstanceUID="1.4")
    (tmp_path / "y.dcm").write_bytes(b"")
    entries, odd = indexed(tmp_path)
    assert {e.series_uid: e.flags for e in entries} == {
        "1.2": ("lost_files",),
        "1.3": ("lost_files",),
        "1.4": (),
    }
    assert reasons(odd) == {"y.dcm": "unreadable"}


def test_files_beside_a_series_that_are_no_slices_do_not_touch_it(tmp_path: Path) -> None:
    write_stack(tmp_path, 9)
    for name in ("_SUCCESS", "done", "readme.txt", "._003", ".hidden1"):
        (tmp_path / name).write_bytes(b"")
    (entry,), odd = indexed(tmp_path)
    assert (len(entry.files), entry.flags) == (9, ())
    assert set(reasons(odd).values()) == {"not_medical"}


def test_an_empty_file_without_suffix_among_such_slices_is_one_of_them(tmp_path: Path) -> None:
    write_stack(tmp_path, 9)
    (tmp_path / "009").write_bytes(b"")
    (entry,), odd = indexed(tmp_path)
    assert (len(entry.files), odd) == (10, [])


def test_empty_files_without_a_series_are_no_images(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.nii.gz", "c.nii", "d"):
        (tmp_path / name).write_bytes(b"")
    entries, odd = indexed(tmp_path)
    assert entries == []
    assert set(reasons(odd).values()) == {"not_medical"}


def test_burned_in_text_beside_slices_is_a_row_and_alone_a_series(tmp_path: Path) -> None:
    write_dcm_stack(tmp_path / "a", 9)
    write_header(tmp_path / "a" / "text.dcm", BurnedInAnnotation="YES")
    write_dcm_stack(tmp_path / "b", 9, SeriesInstanceUID="1.3", BurnedInAnnotation="YES")
    entries, odd = indexed(tmp_path)
    assert {e.series_uid: len(e.files) for e in entries} == {"1.2": 9, "1.3": 9}
    assert reasons(odd) == {"a/text.dcm": "burned_in"}


NAMES = {
    "numbers": "{:03d}",
    "IM": "IM{:03d}",
    "UIDs": "1.2.840.{}",
    "UIDs of a modality": "CT.1.2.840.{}",
    "another suffix": "a{:02d}.img",
    "hashes": "{:04x}e9b1c0d5",
    "UUIDs": "550e8400-e29b-41d4-a716-4466554400{:02x}",
}


@pytest.mark.parametrize("content", ["empty", "torn", "garbage", "text"])
@pytest.mark.parametrize("names", NAMES)
def test_a_file_named_as_its_siblings_is_one_of_them_whatever_it_holds(
    tmp_path: Path, names: str, content: str
) -> None:
    files = [tmp_path / NAMES[names].format(k) for k in range(12)]
    for k, file in enumerate(files):
        write_header(file, ImagePositionPatient=[0, 0, 5 * k])
    data = {"empty": b"", "torn": files[-1].read_bytes()[:100], "garbage": b"\xf0\x9d" * 2000}
    files[-1].write_bytes(data.get(content, b"<html>404</html>"))
    (entry,), odd = indexed(tmp_path)
    assert (len(entry.files), entry.flags, odd) == (12, (), [])


@pytest.mark.parametrize("slices", ["IM{:03d}", "1.2.840.{}", "{:03d}.dcm"])
def test_texts_tables_and_pictures_beside_slices_are_none_of_them(
    tmp_path: Path, slices: str
) -> None:
    for k in range(9):
        write_header(tmp_path / slices.format(k), ImagePositionPatient=[0, 0, 5 * k])
    others = ("README", "README2", "VERSION", "VERSION 1.2.840", "checksums", "sha256sums")
    others += ("IM003.jpg", "IM003.txt", "1.2.840.3.xml", "report1", "LOCKFILE", "thumb_01.png")
    for name in others:
        (tmp_path / name).write_bytes(b"one two three")
    (tmp_path / "empty1.log").write_bytes(b"")
    (entry,), odd = indexed(tmp_path)
    assert (len(entry.files), entry.flags) == (9, ())
    assert reasons(odd) == dict.fromkeys((*others, "empty1.log"), "not_medical")


def test_garbage_named_as_the_slices_of_two_series_flags_both(tmp_path: Path) -> None:
    write_stack(tmp_path, 9, prefix="IM")
    write_stack(tmp_path, 9, start=100, prefix="IM", SeriesInstanceUID="1.3")
    write_stack(tmp_path, 9, prefix="SC", SeriesInstanceUID="1.4")
    (tmp_path / "IM999").write_bytes(b"garbage")
    entries, odd = indexed(tmp_path)
    flags = {e.series_uid: e.flags for e in entries}
    assert flags == {"1.2": ("lost_files",), "1.3": ("lost_files",), "1.4": ()}
    assert reasons(odd) == {"IM999": "unreadable"}


def test_a_link_to_a_missing_file_is_a_slice_of_its_series(tmp_path: Path) -> None:
    write_dcm_stack(tmp_path, 8)
    (tmp_path / "008.dcm").symlink_to(".git/annex/objects/x.dcm")
    (tmp_path / "notes").symlink_to("missing")
    (entry,), odd = indexed(tmp_path)
    assert (len(entry.files), entry.files[-1]) == (9, "008.dcm")
    assert reasons(odd) == {"notes": "io_error"}
    before = entry.stat_digest
    write_header(tmp_path / ".git/annex/objects/x.dcm", ImagePositionPatient=[0, 0, 40])
    (entry,), _ = indexed(tmp_path)
    assert entry.stat_digest != before


def test_a_link_out_of_the_archive_named_as_a_slice_flags_its_series(tmp_path: Path) -> None:
    write_dcm_stack(tmp_path / "in", 8)
    write_header(tmp_path / "008.dcm", ImagePositionPatient=[0, 0, 40])
    (tmp_path / "in" / "008.dcm").symlink_to(tmp_path / "008.dcm")
    (entry,), odd = indexed(tmp_path / "in")
    assert (len(entry.files), entry.flags) == (8, ("lost_files",))
    assert reasons(odd) == {"008.dcm": "not_medical"}


def test_a_slice_that_does_not_open_stays_in_its_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dcm_stack(tmp_path, 9)
    (tmp_path / "readme").write_bytes(b"text")
    open_ = os.open

    def open_as_a_user(path: Any, *rest: Any, **options: Any) -> int:
        if str(path).endswith(("004.dcm", "readme")):  # chmod does not stop root, who runs CI
            raise PermissionError(13, "Permission denied")
        return open_(path, *rest, **options)

    monkeypatch.setattr(os, "open", open_as_a_user)
    (entry,), odd = indexed(tmp_path)
    assert len(entry.files) == 9
    assert reasons(odd) == {"readme": "io_error"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("IM0012", "im#"),
        ("1.2.840.12", "#"),
        ("ct.1.2.840.12", "ct.#"),
        ("slice_7.IMG", "slice_#.img"),
        ("x.DCM", ".dcm"),
        ("deadbeef01", "#"),
        ("facade", ""),
        ("README", ""),
    ],
)
def test_shapes_of_names(name: str, shape: str) -> None:
    assert name_shape(name) == shape
