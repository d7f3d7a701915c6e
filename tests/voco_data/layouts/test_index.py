"""The index of odd archives: what the walk meets, whose ids show; every file is accounted for."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.headers import indexed, reasons, touch, write_header, write_stack
from voco_data.errors import InputError, VocoError
from voco_data.layouts import plain
from voco_data.layouts.index import index_archive
from voco_data.storage.scratch_db import open_scratch_db, scratch_tables


def test_the_order_of_the_file_system_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patient in "cab":
        write_stack(tmp_path / patient, 3, PatientID=patient, SeriesInstanceUID=f"1.{ord(patient)}")
        (tmp_path / f"{patient}.txt").write_text("")
    first = indexed(tmp_path)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            with scandir(path) as found:
                self._entries = sorted(found, key=lambda e: e.name, reverse=True)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self._entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert indexed(tmp_path) == first
    assert [entry.patient_id for entry in first[0]] == ["a", "b", "c"]


def test_names_with_odd_bytes_newlines_and_blanks(tmp_path: Path) -> None:
    names = [b"\xff\xfe.dcm", b"new\nline", b" ", "umlaut-ü".encode(), b"-rf"]
    for k, name in enumerate(names):
        write_header(tmp_path / os.fsdecode(name), ImagePositionPatient=[0, 0, k])
    (tmp_path / os.fsdecode(b"\xfftxt")).write_text("")
    (entry,), odd = indexed(tmp_path)
    assert {os.fsencode(file) for file in entry.files} == set(names)
    assert reasons(odd) == {"\\udcfftxt": "not_medical"}


def test_pipes_sockets_devices_and_links_are_rows_and_never_opened(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_stack(archive / "ct", 3)
    os.mkfifo(archive / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(archive / "socket"))
        write_header(tmp_path / "outside.dcm")
        (archive / "out").symlink_to(tmp_path / "outside.dcm")
        (archive / "folder").symlink_to(archive / "ct")
        (archive / "loop").symlink_to(archive / "loop")
        (archive / "up").symlink_to("..")
        (archive / "null").symlink_to("/dev/null")
        (archive / "nowhere").symlink_to(archive / "missing")
        (archive / "to-pipe").symlink_to(archive / "pipe")
        entries, odd = indexed(archive)
    assert [len(entry.files) for entry in entries] == [3]
    assert reasons(odd) == {
        "pipe": "not_medical",
        "socket": "not_medical",
        "out": "not_medical",
        "folder": "not_medical",
        "up": "not_medical",
        "null": "not_medical",
        "to-pipe": "not_medical",
        "loop": "io_error",
        "nowhere": "io_error",
    }


def test_a_link_inside_the_archive_is_a_file_of_it(tmp_path: Path) -> None:
    write_header(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").symlink_to("a.dcm")
    (entry,), odd = indexed(tmp_path)
    assert (entry.files, odd) == (("a.dcm", "b.dcm"), [])


def test_what_cannot_be_read_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stack(tmp_path / "good", 3)
    write_stack(tmp_path / "closed", 3)
    write_header(tmp_path / "gone.dcm", SeriesInstanceUID="1.9")
    write_header(tmp_path / "pipe.dcm", SeriesInstanceUID="1.9")
    scandir, open_ = os.scandir, os.open

    def scandir_as_a_user(path: str) -> Any:
        if str(path).rstrip("/").endswith("closed"):  # chmod does not stop root, who runs CI
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    def open_late(path: Any, *rest: Any, **options: Any) -> int:
        if str(path).endswith("gone.dcm"):
            Path(path).unlink(missing_ok=True)
        if str(path).endswith("pipe.dcm"):
            Path(path).unlink()
            os.mkfifo(path)
        return open_(path, *rest, **options)

    monkeypatch.setattr(os, "scandir", scandir_as_a_user)
    monkeypatch.setattr(os, "open", open_late)
    entries, odd = indexed(tmp_path)
    assert [entry.source for entry in entries] == ["good"]
    assert reasons(odd) == {
        "closed": "io_error",
        "gone.dcm": "io_error",
        "pipe.dcm": "unreadable",
    }
    assert "Permission denied" in next(file.detail for file in odd if file.path == "closed")


def test_a_source_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        indexed(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        indexed(Path("/dev/null"))


def test_folders_deeper_than_any_stack(tmp_path: Path) -> None:
    folders = [Path(f"{tmp_path}{'/d' * depth}") for depth in range(1, 1200)]
    try:
        for folder in folders:
            folder.mkdir()
        (folders[-1] / "x").touch()
        _, odd = indexed(tmp_path)
        assert [file.reason.value for file in odd] == ["not_medical"]
    finally:
        (folders[-1] / "x").unlink()
        for folder in reversed(folders):
            folder.rmdir()


def test_the_index_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    write_stack(tmp_path / "ct", 3)
    with index_archive(tmp_path / "ct") as cohort:
        assert len(cohort) == 1
        assert list((tmp_path / "tmp").iterdir()) == []
    filler = open_scratch_db("CREATE TABLE t (b BLOB);")
    filler.executemany("INSERT INTO t VALUES (?)", ((bytes(2**20),) for _ in range(16)))
    assert list((tmp_path / "tmp").iterdir()) == [], "it has no name, so a kill leaves nothing"
    filler.close()


def test_a_full_temporary_folder_is_one_line() -> None:
    def fill() -> None:
        with scratch_tables("PRAGMA max_page_count=10; CREATE TABLE t (b);") as spill:
            spill.executemany("INSERT INTO t VALUES (?)", ((bytes(10_000),) for _ in range(100)))

    with pytest.raises(VocoError, match="set TMPDIR"):
        fill()


def test_progress_and_the_log_say_how_fast(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_stack(tmp_path, 5)
    with caplog.at_level(logging.INFO):
        indexed(tmp_path, progress=True)
    err = capsys.readouterr().err
    assert "index: 100%" in err
    assert "files/s" in err
    assert "index: 5 files, 1 series" in caplog.text
    indexed(tmp_path)
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match="expected RATIC"):
        indexed(tmp_path, layout="ratic", progress=True)
    assert capsys.readouterr().err.count("\n") == 1, (
        "the line of the walk; that of the error is wiped"
    )


FLARE, RATIC = "images/FLARE23_0001_0000.nii.gz", "train_images/10/21/1.dcm"


def public(folder: Path) -> None:
    """RATIC and FLARE23 in folders of their own, with what lies beside the images."""
    touch(folder / "flare" / FLARE, folder / "flare" / "labels" / "FLARE23_0001.nii.gz")
    touch(folder / "ratic" / RATIC, folder / "ratic" / "segmentations" / "21.nii")
    touch(folder / "ratic" / "train_series_meta.csv")
    for name in ("flare", "ratic"):
        touch(folder / name / "README", folder / name / "a.JSON", folder / name / ".hidden")


@pytest.mark.parametrize("name", ["flare", "ratic"])
@pytest.mark.parametrize(
    "stranger",
    ["DOE_JOHN_19500101/000.dcm", "DOE_JOHN_19500101/IM1", "DOE_JOHN.nii", "DOE_JOHN/a.jpg"],
)
def test_one_file_of_a_stranger_hides_all_ids(
    tmp_path: Path, name: str, stranger: str, caplog: pytest.LogCaptureFixture
) -> None:
    public(tmp_path)
    with index_archive(tmp_path / name) as cohort:
        assert (cohort.layout, cohort.public_ids) == (name, True)
    write_header(tmp_path / name / stranger, SeriesInstanceUID="1.9")
    with index_archive(tmp_path / name) as cohort:
        assert not cohort.public_ids
        assert ("dicom" in cohort.layout) == (not stranger.endswith(".nii"))
    assert "DOE" not in caplog.text
    assert "all ids are hidden" in caplog.text


@pytest.mark.parametrize("name", ["flare", "ratic"])
def test_a_public_layout_never_shows_names_that_are_not_its_own(tmp_path: Path, name: str) -> None:
    public(tmp_path)
    folder = tmp_path / name
    touch(*(folder / "DOE" / f"{k}.dcm" for k in range(2)), folder / "DOE" / "train.csv")
    touch(folder / "a.DOE", folder / "b_DOE.NII.gz")
    (folder / "DOE.dcm").symlink_to(tmp_path)
    with index_archive(folder, layout=name) as cohort:
        assert (cohort.layout, cohort.public_ids) == (name, True)
        odd = list(cohort.odd_files())
    assert not any("DOE" in f"{file.path} {file.detail}" for file in odd)
    hidden = sorted(path for path in reasons(odd) if "another file" in path)
    assert len(hidden) == 9
    assert {"(another file 2).dcm", "(another file 3).dcm", "(another file 7)"} <= set(hidden)
    assert reasons(odd).get("train_series_meta.csv", "not_medical") == "not_medical"


def patients(source: Path) -> dict[str, str]:
    return {entry.source: entry.patient_id for entry in indexed(source)[0]}


def test_the_patient_of_a_nifti_is_its_name_or_its_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "p1.nii.gz", tmp_path / "a" / "p2.nii", tmp_path / "P3.NII.GZ")
    assert patients(tmp_path) == {"a/p1.nii.gz": "p1", "a/p2.nii": "p2", "P3.NII.GZ": "P3"}
    for case in ("s0001", "s0002"):
        touch(tmp_path / "set" / case / "ct.nii.gz", tmp_path / "set" / case / "masks" / "l.nii")
    touch(tmp_path / "set" / "s0002" / "late.nii.gz")
    assert patients(tmp_path) == {
        "a/p1.nii.gz": "p1",
        "a/p2.nii": "p2",
        "P3.NII.GZ": "P3",
        "set/s0001/ct.nii.gz": "set/s0001",
        "set/s0002/ct.nii.gz": "set/s0002",
        "set/s0002/late.nii.gz": "set/s0002",
    }
    assert {e.series_uid for e in indexed(tmp_path)[0]} >= {"P3", "set/s0001/ct"}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/scan"], ["scan"]),
        (["a/scan", "b/scan"], ["a", "b"]),
        (["images/p1", "images/p2", "x/scan", "y/scan"], ["p1", "p2", "x", "y"]),
        (
            [f"{phase}/p{k}" for phase in ("arterial", "venous") for k in range(3)],
            ["p0", "p1", "p2"] * 2,
        ),
        (
            [f"{case}/{phase}" for case in "abc" for phase in ("arterial", "venous")],
            ["a", "a", "b", "b", "c", "c"],
        ),
        (
            ["ct/p1", "ct/p2", "ct/p3", "pet/p1", "pet/p2", "pet/p3", "x/scan", "y/scan"],
            ["p1", "p2", "p3", "p1", "p2", "p3", "x", "y"],
        ),
    ],
)
def test_folders_are_patients_where_few_names_repeat(
    tmp_path: Path, paths: list[str], expected: list[str]
) -> None:
    touch(*(tmp_path / f"{path}.nii.gz" for path in paths))
    found = patients(tmp_path)
    assert [found[f"{path}.nii.gz"] for path in paths] == expected


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(st.tuples(st.sampled_from("abcd"), st.sampled_from("vwxyz")), min_size=1))
def test_a_file_that_shares_no_name_changes_no_patient(pairs: set[tuple[str, str]]) -> None:
    with TemporaryDirectory() as folder:
        touch(*(Path(folder) / name / f"{file}.nii" for name, file in pairs))
        before = patients(Path(folder))
        touch(Path(folder) / "other" / "unlike.nii", Path(folder) / "more" / "alone.nii")
        after = patients(Path(folder))
        assert before.items() <= after.items()
        assert {after["other/unlike.nii"], after["more/alone.nii"]} == {"unlike", "alone"}


@pytest.mark.parametrize("step", ["segmentation_reference", "parse_frames", "make_stack_key"])
def test_a_header_that_converts_for_ever_costs_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_header(tmp_path / "slow")

    def wait(*_: object) -> None:
        time.sleep(5)
        pytest.fail("there is no limit")

    monkeypatch.setattr(plain, step, wait)
    monkeypatch.setattr(plain, "HEADER_LIMIT_S", 0.1)
    assert reasons(indexed(tmp_path)[1]) == {"slow": "time_limit"}


@pytest.mark.real_ct
def test_the_folder_of_real_files_is_accounted_for(real_ct: Path) -> None:
    entries, odd = indexed(real_ct)
    files = sorted(str(p.relative_to(real_ct)) for p in real_ct.rglob("*") if p.is_file())
    assert sorted([*(f for e in entries for f in e.files), *(f.path for f in odd)]) == files
    by_source = {entry.source: entry for entry in entries}
    assert len(by_source["01_tcga_coad_siemens_abdpelvis"].files) == 87
    assert len(by_source["02_totalseg_siemens_j2k_abdomen"].files) == 20
    assert len(by_source["09_bad_geometry/all_slices_same_position"].files) == 4
    liver = by_source["07_dcmqi_ct3slice_liver_seg"]
    assert (len(liver.files), sorted(m.kind for m in liver.masks)) == (3, ["dicom_seg", "nrrd"])
