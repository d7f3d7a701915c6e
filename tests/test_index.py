"""The index of odd archives: what the walk meets, DICOMDIR, masks; every file is accounted for."""

from __future__ import annotations

import gc
import gzip
import logging
import os
import socket
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from tests.headers import indexed, reasons, write_header, write_stack
from voco_data.cohort import MaskFile
from voco_data.errors import InputError, VocoError
from voco_data.layouts import plain
from voco_data.layouts.index import index
from voco_data.layouts.masks import mask_kind
from voco_data.spill import connect, spilling


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
        "loop": "unreadable",
        "nowhere": "unreadable",
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
        "closed": "unreadable",
        "gone.dcm": "unreadable",
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
    with index(tmp_path / "ct") as cohort:
        assert len(cohort) == 1
        assert list((tmp_path / "tmp").iterdir()) == []
    filler = connect("CREATE TABLE t (b BLOB);")
    filler.executemany("INSERT INTO t VALUES (?)", ((bytes(2**20),) for _ in range(16)))
    assert list((tmp_path / "tmp").iterdir()) == [], "it has no name, so a kill leaves nothing"
    filler.close()


def test_a_full_temporary_folder_is_one_line() -> None:
    def fill() -> None:
        with spilling("PRAGMA max_page_count=10; CREATE TABLE t (b);") as spill:
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


# DICOMDIR


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
        "CT/999": "unreadable",
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


# Masks


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a_seg.nii.gz", "nifti"),
        ("Segmentation.nrrd", "nrrd"),
        ("liver.seg.nrrd", "nrrd"),
        ("LiverMask.nii", "nifti"),
        ("CTMask1.nii", "nifti"),
        ("organ-labels.nii.gz", "nifti"),
        ("masks/liver.nii.gz", "nifti"),
        ("Segmentations/spleen.nrrd", "nrrd"),
        ("scan.nii.gz", None),
        ("segovia.nii.gz", None),
        ("unmasked.nrrd", None),
        ("mask.dcm", None),
        ("masks/deep/liver.nii.gz", None),
    ],
)
def test_masks_by_name(path: str, kind: str | None) -> None:
    assert mask_kind(path) == kind


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b""))


def test_masks_around_a_dicom_series(tmp_path: Path) -> None:
    write_stack(tmp_path / "p" / "ct", 3)
    near = ["p/above_mask.nii.gz", "p/ct/in.seg.nrrd", "p/ct/masks/liver.nii", "p/ct/labels/x.nrrd"]
    far = ["p/other/mask.nii.gz", "mask.nii.gz", "p/ct/deep/masks/y.nii.gz"]
    touch(*(tmp_path / name for name in near + far), tmp_path / "p" / "ct" / "scan.nrrd")
    (entry,), odd = indexed(tmp_path)
    assert len(entry.files) == 3
    assert [mask.path for mask in entry.masks] == sorted(near)
    assert entry.masks[0] == MaskFile("p/above_mask.nii.gz", "nifti", "unknown")
    expected = dict.fromkeys(near + far, "mask") | {"p/ct/scan.nrrd": "not_medical"}
    assert reasons(odd) == expected
    assert {f.path for f in odd if "no series" in f.detail} == set(far)


def test_masks_around_nifti_images(tmp_path: Path) -> None:
    touch(tmp_path / "one" / "ct.nii.gz", tmp_path / "one" / "segmentations" / "liver.nii.gz")
    for name in ("case1", "case2", "case1_mask", "case12_seg", "all_labels"):
        touch(tmp_path / "two" / f"{name}.nii.gz")
    entries, _ = indexed(tmp_path)
    masks = {e.source: [mask.path for mask in e.masks] for e in entries}
    assert masks == {
        "one/ct.nii.gz": ["one/segmentations/liver.nii.gz"],
        "two/case1.nii.gz": [
            f"two/{name}.nii.gz" for name in ("all_labels", "case12_seg", "case1_mask")
        ],
        "two/case2.nii.gz": [f"two/{name}.nii.gz" for name in ("all_labels", "case12_seg")],
    }


def test_a_mask_that_may_be_anybodys_is_nobodys(tmp_path: Path) -> None:
    touch(*(tmp_path / f"case{k}.nii" for k in range(101)), tmp_path / "mask.nii")
    entries, odd = indexed(tmp_path)
    assert not any(entry.masks for entry in entries)
    assert reasons(odd) == {"mask.nii": "mask"}


def test_a_mask_that_comes_later_makes_its_series_new_and_no_other(tmp_path: Path) -> None:
    write_stack(tmp_path / "a", 3)
    write_stack(tmp_path / "b", 3, SeriesInstanceUID="1.9")
    before = [entry.stat_digest for entry in indexed(tmp_path)[0]]
    touch(tmp_path / "a" / "mask.nii")
    after = [entry.stat_digest for entry in indexed(tmp_path)[0]]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]
    os.utime(tmp_path / "a" / "mask.nii", (1, 1))
    assert indexed(tmp_path)[0][0].stat_digest not in (before[0], after[0])


def write_seg(path: Path, *series: str, **tags: object) -> None:
    items = []
    for uid in series:
        item = Dataset()
        item.SeriesInstanceUID = uid
        items.append(item)
    seg = {"Modality": "SEG", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}
    seg |= {"SeriesInstanceUID": "1.8", "ReferencedSeriesSequence": Sequence(items)}
    write_header(path, **(seg | tags))


def test_dicom_segmentations_go_where_they_refer_to(tmp_path: Path) -> None:
    write_stack(tmp_path / "a", 3, prefix="soft", ConvolutionKernel="soft")
    write_stack(tmp_path / "a", 3, prefix="bone", ConvolutionKernel="bone")
    write_stack(tmp_path / "b", 3, PatientID="q")
    write_seg(tmp_path / "elsewhere" / "seg", "1.2")
    write_seg(tmp_path / "lost", "1.99")
    write_seg(tmp_path / "none")
    entries, odd = indexed(tmp_path)
    masks = (MaskFile("elsewhere/seg", "dicom_seg", "unknown"),)
    assert [(e.patient_id, e.masks) for e in entries] == [("p", masks), ("p", masks), ("q", ())]
    assert reasons(odd) == dict.fromkeys(["elsewhere/seg", "lost", "none"], "mask")
    assert [f.path for f in odd if "no series" in f.detail] == ["lost", "none"]


def test_masks_of_the_public_layouts(tmp_path: Path) -> None:
    ratic, flare = tmp_path / "ratic", tmp_path / "flare"
    for series in ("21", "22"):
        touch(ratic / "train_images" / "10" / series / "1.dcm")
    touch(ratic / "train_series_meta.csv", ratic / "segmentations" / "21.nii")
    touch(ratic / "segmentations" / "99.nii.gz")
    entries, odd = indexed(ratic)
    mask = MaskFile("segmentations/21.nii", "nifti", "ratic")
    assert [entry.masks for entry in entries] == [(mask,), ()]
    assert reasons(odd) == {
        "train_series_meta.csv": "not_medical",
        "segmentations/21.nii": "mask",
        "segmentations/99.nii.gz": "mask",
    }
    touch(flare / "imagesTr2200" / "1-500" / "FLARE23_0001_0000.nii.gz")
    touch(flare / "imagesTr2200" / "FLARE23_0002_0000.nii.gz")
    touch(flare / "labelsTr2200" / "FLARE23_0001.nii.gz", flare / "readme.txt")
    entries, odd = indexed(flare)
    mask = MaskFile("labelsTr2200/FLARE23_0001.nii.gz", "nifti", "flare")
    assert [entry.masks for entry in entries] == [(mask,), ()]
    assert reasons(odd) == {
        "(another file 1).txt": "not_medical",
        "labelsTr2200/FLARE23_0001.nii.gz": "mask",
    }


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
    with index(tmp_path / name) as cohort:
        assert (cohort.layout, cohort.public_ids) == (name, True)
    write_header(tmp_path / name / stranger, SeriesInstanceUID="1.9")
    with index(tmp_path / name) as cohort:
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
    with index(folder, layout=name) as cohort:
        assert (cohort.layout, cohort.public_ids) == (name, True)
        odd = list(cohort.odd_files())
    assert not any("DOE" in f"{file.path} {file.detail}" for file in odd)
    hidden = sorted(path for path in reasons(odd) if "another file" in path)
    assert len(hidden) == 9
    assert {"(another file 2).dcm", "(another file 3).dcm", "(another file 7)"} <= set(hidden)
    assert reasons(odd).get("train_series_meta.csv", "not_medical") == "not_medical"


# NIfTI


def patients(source: Path) -> dict[str, str]:
    return {entry.source: entry.patient_id for entry in indexed(source)[0]}


def test_the_patient_of_a_nifti_is_its_name_or_its_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "p1.nii.gz", tmp_path / "a" / "p2.nii", tmp_path / "P3.NII.GZ")
    assert patients(tmp_path) == {"a/p1.nii.gz": "p1", "a/p2.nii": "p2", "P3.NII.GZ": "P3"}
    for case in ("s0001", "s0002"):
        touch(tmp_path / "set" / case / "ct.nii.gz", tmp_path / "set" / case / "masks" / "l.nii")
    touch(tmp_path / "set" / "s0002" / "late.nii.gz")
    assert patients(tmp_path) == {
        "a/p1.nii.gz": "a",
        "a/p2.nii": "a",
        "P3.NII.GZ": "P3",
        "set/s0001/ct.nii.gz": "set/s0001",
        "set/s0002/ct.nii.gz": "set/s0002",
        "set/s0002/late.nii.gz": "set/s0002",
    }
    assert {e.series_uid for e in indexed(tmp_path)[0]} >= {"P3", "set/s0001/ct"}


@pytest.mark.parametrize("step", ["segmented_series", "parse_header", "stack_key"])
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
