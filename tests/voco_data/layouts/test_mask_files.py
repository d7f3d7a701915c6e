"""Which files are masks, and of which series."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.support.headers import indexed, reasons, touch, write_header, write_stack
from voco_data.cohort import MaskFile
from voco_data.layouts.mask_files import mask_kind


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


def test_a_mask_beside_some_slices_of_a_series_over_two_folders(tmp_path: Path) -> None:
    write_stack(tmp_path / "p" / "a", 4)
    write_stack(tmp_path / "p" / "b" / "c", 4, start=4)
    write_stack(tmp_path / "p", 4, start=8)
    near = ["p/a/seg.nii.gz", "p/a/masks/x.nii.gz", "p/b/c/seg.nii.gz", "p/b/seg.nrrd"]
    near += ["p/b/masks/y.nrrd", "p/seg.nii.gz"]
    touch(*(tmp_path / name for name in [*near, "p/d/seg.nii.gz"]))
    (entry,), odd = indexed(tmp_path)
    assert len(entry.files) == 12
    assert [mask.path for mask in entry.masks] == sorted(near)
    assert {f.path for f in odd if "no series" in f.detail} == {"p/d/seg.nii.gz"}
