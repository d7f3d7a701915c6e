"""A DICOMDIR: beside the files that it lists, and as the source."""

from __future__ import annotations

import gc
import struct
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from tests.support.headers import indexed, reasons, write_header, write_stack
from voco_data.dicom.dicomdir import listed_slices
from voco_data.errors import InputError


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A disc with three slices of each of two series, as pydicom writes it."""
    files = FileSet()
    for series in (1, 2):
        for k in range(3):
            tags = {"SOPInstanceUID": f"1.2.{series}.{k}", "InstanceNumber": k, "PatientName": "x"}
            tags |= {"SeriesNumber": series, "StudyDate": "20200101", "StudyTime": "0101"}
            path = tmp_path / "made" / f"{series}-{k}"
            write_header(path, SeriesInstanceUID=f"1.2.{series}", StudyID="1", **tags)
            dataset = pydicom.dcmread(path)
            dataset.file_meta.MediaStorageSOPInstanceUID = tags["SOPInstanceUID"]
            files.add(dataset)
    files.write(tmp_path / "disc")
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        del files  # leaves its temporary folder to the garbage collector
        gc.collect()
    return tmp_path / "disc"


def test_a_folder_with_a_dicomdir(disc: Path) -> None:
    entries, odd = indexed(disc)
    assert [len(entry.files) for entry in entries] == [3, 3]
    assert reasons(odd) == {"DICOMDIR": "not_an_image"}


def test_a_dicomdir_as_source_gives_the_files_that_it_lists(disc: Path) -> None:
    write_header(disc / "not-listed", SeriesInstanceUID="1.9")
    first = indexed(disc / "DICOMDIR")
    assert [len(entry.files) for entry in first[0]] == [3, 3]
    assert reasons(first[1]) == {"DICOMDIR": "not_an_image"}
    for path in sorted(disc.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        if path.name != "DICOMDIR":
            path.rename(path.with_name(path.name.lower()))
    assert [len(entry.files) for entry in indexed(disc / "DICOMDIR")[0]] == [3, 3]


def dicomdir(path: Path, *references: list[str] | str) -> Path:
    """A DICOMDIR with one image record a reference."""
    items = []
    for reference in references:
        item = Dataset()
        item.DirectoryRecordType = "IMAGE"
        item.ReferencedFileID = reference
        items.append(item)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.4"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.FileSetID = ""
    dataset.DirectoryRecordSequence = Sequence(items)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_references_that_leave_the_folder_are_never_read(tmp_path: Path) -> None:
    disc = tmp_path / "disc"
    write_stack(disc / "CT", 3)
    write_header(tmp_path / "SECRET")
    (disc / "LINK").symlink_to(tmp_path / "SECRET")
    references: list[list[str] | str] = [["CT", f"{k:03d}"] for k in (0, 1, 2, 2)]
    bad: list[list[str] | str] = [
        ["..", "SECRET"],
        ["CT", "..", "..", "SECRET"],
        f"{tmp_path}/SECRET",
        ["", "etc", "passwd"],
        ["CT", "999"],
        "LINK",
    ]
    (entry,), odd = indexed(dicomdir(disc / "DICOMDIR", *references, *bad))
    assert len(entry.files) == 3
    assert reasons(odd) == {
        "DICOMDIR": "not_an_image",
        "../SECRET": "unreadable",
        "CT/../../SECRET": "unreadable",
        f"{tmp_path}/SECRET": "unreadable",
        "/etc/passwd": "unreadable",
        "CT/999": "io_error",
        "LINK": "not_medical",
    }


def test_a_broken_dicomdir_is_one_line(tmp_path: Path) -> None:
    path = dicomdir(tmp_path / "DICOMDIR", ["CT", "000"])
    whole = path.read_bytes()
    for size in range(400, len(whole), 7):
        path.write_bytes(whole[:size])
        try:
            indexed(path)
        except InputError as error:
            assert "DICOMDIR is broken" in str(error)  # noqa: PT017
    path.write_bytes(whole.replace(b"CS\x06\x00CT\\000", b"UN\0\0" + struct.pack("<I", 2**32 - 9)))
    with pytest.raises(InputError, match="DICOMDIR is broken"):
        indexed(path)


def flags_of(source: Path) -> dict[str, tuple[str, ...]]:
    return {entry.series_uid: entry.flags for entry in indexed(source)[0]}


def files_of_series(disc: Path, uid: str) -> list[Path]:
    files = [path for path in disc.rglob("*") if path.is_file() and path.name != "DICOMDIR"]
    return sorted(path for path in files if pydicom.dcmread(path).SeriesInstanceUID == uid)


@pytest.mark.parametrize("source", ["DICOMDIR", "."])
def test_a_missing_slice_flags_the_series_of_its_record(disc: Path, source: str) -> None:
    assert flags_of(disc / source) == {"1.2.1": (), "1.2.2": ()}
    lost = files_of_series(disc, "1.2.2")[-1]
    lost.unlink()
    assert flags_of(disc / source) == {"1.2.1": (), "1.2.2": ("lost_files",)}
    name = str(lost.relative_to(disc))
    assert reasons(indexed(disc / source)[1]) == {"DICOMDIR": "not_an_image", name: "io_error"}
    assert flags_of(disc.parent)["1.2.2"] == ("lost_files",), "in a folder below the source"


def test_slices_of_one_folder_are_told_apart_by_their_records(disc: Path) -> None:
    """Both series get names of one shape in one folder, as on many discs."""
    data = (disc / "DICOMDIR").read_bytes()
    for k, path in enumerate(files_of_series(disc, "1.2.1") + files_of_series(disc, "1.2.2")):
        old = "\\".join(path.relative_to(disc).parts).encode()
        new = f"ALL\\IM{k}".encode().ljust(len(old))
        assert data.count(old) == 1
        data = data.replace(old, new)
        (disc / "ALL").mkdir(exist_ok=True)
        path.rename(disc / "ALL" / f"IM{k}")
    (disc / "DICOMDIR").write_bytes(data)
    assert flags_of(disc) == {"1.2.1": (), "1.2.2": ()}
    (disc / "ALL" / "IM5").unlink()
    assert flags_of(disc) == flags_of(disc / "DICOMDIR") == {"1.2.1": (), "1.2.2": ("lost_files",)}


def test_a_series_of_which_no_file_is_left_is_not_missed_in_a_folder(disc: Path) -> None:
    for path in files_of_series(disc, "1.2.2"):
        path.unlink()
    assert flags_of(disc) == {"1.2.1": ()}
    assert reasons(indexed(disc)[1]) == {"DICOMDIR": "not_an_image"}


def test_excluded_files_are_not_missed(disc: Path) -> None:
    lost = files_of_series(disc, "1.2.2")[-1]
    lost.unlink()
    (first, second), odd = indexed(disc, exclude=[str(lost.relative_to(disc))])
    assert (first.flags, second.flags) == ((), ())
    assert reasons(odd) == {"DICOMDIR": "not_an_image"}


def test_a_damaged_dicomdir_in_a_folder_costs_nothing(
    disc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files_of_series(disc, "1.2.2")[-1].unlink()
    whole = (disc / "DICOMDIR").read_bytes()
    for size in range(400, len(whole), 97):
        (disc / "DICOMDIR").write_bytes(whole[:size])
        assert [len(entry.files) for entry in indexed(disc)[0]] == [3, 2]
    assert "a DICOMDIR does not read" in caplog.text


def test_offsets_that_form_a_loop_end(disc: Path) -> None:
    whole = (disc / "DICOMDIR").read_bytes()
    root = int(pydicom.dcmread(disc / "DICOMDIR")[0x0004, 0x1200].value)
    at = whole.index(b"\x04\x00\x20\x14", root) + 8  # of the patient: its first study
    loop = whole[:at] + struct.pack("<I", root) + whole[at + 4 :]
    (disc / "DICOMDIR").write_bytes(loop)
    with pytest.raises(InputError, match="DICOMDIR is broken"):
        list(listed_slices(disc / "DICOMDIR"))


def test_listed_slices_are_the_files_of_the_disc_with_their_uids(disc: Path) -> None:
    expected = {
        ("1.1", uid, path.relative_to(disc).parts)
        for uid in ("1.2.1", "1.2.2")
        for path in files_of_series(disc, uid)
    }
    listed = [(s.study_uid, s.series_uid, s.parts) for s in listed_slices(disc / "DICOMDIR")]
    assert set(listed) == expected
    assert len(listed) == 6
