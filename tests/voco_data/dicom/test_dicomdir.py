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
