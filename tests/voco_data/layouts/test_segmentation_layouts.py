"""Decathlon, nnU-Net, TotalSegmentator: patients and masks; content says what a mask is."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from tests.support.headers import indexed, reasons, write_stack
from voco_data.layouts.index import index_archive
from voco_data.nifti import holds_unscaled_bytes, is_label_map

SHAPE = (10, 24, 24)


def write_nifti(path: Path, values: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), np.diag([2.0, 2, 5, 1])), path)


def ct(path: Path, seed: int = 0) -> None:
    """Noise around water in air."""
    values = np.full(SHAPE, -1000, np.int16)
    values[:, 4:20, 4:20] = np.random.default_rng(seed).normal(40, 20, (10, 16, 16))
    write_nifti(path, values)


def labels(path: Path, numbers: tuple[int, ...] = (1, 2)) -> None:
    values = np.zeros(SHAPE, np.uint8)
    for k, number in enumerate(numbers):
        values[2:8, 6:12, 5 + 6 * k : 10 + 6 * k] = number
    write_nifti(path, values)


def found(source: Path) -> dict[str, tuple[str, list[str]]]:
    """Source to patient and masks."""
    entries, _ = indexed(source)
    return {e.source: (e.patient_id, [mask.path for mask in e.masks]) for e in entries}


def layout_of(source: Path) -> tuple[str, bool]:
    with index_archive(source) as cohort:
        return cohort.layout, cohort.public_ids


def test_decathlon(tmp_path: Path) -> None:
    for k in (1, 2):
        ct(tmp_path / "Task03" / "imagesTr" / f"liver_{k}.nii.gz", k)
        labels(tmp_path / "Task03" / "labelsTr" / f"liver_{k}.nii.gz")
        (tmp_path / "Task03" / "imagesTr" / f"._liver_{k}.nii.gz").write_bytes(b"Mac OS X")
    ct(tmp_path / "Task03" / "imagesTs" / "liver_3.nii.gz")
    (tmp_path / "Task03" / "dataset.json").write_text("{}")
    assert layout_of(tmp_path) == ("decathlon", False)
    assert found(tmp_path) == {
        "Task03/imagesTr/liver_1.nii.gz": ("liver_1", ["Task03/labelsTr/liver_1.nii.gz"]),
        "Task03/imagesTr/liver_2.nii.gz": ("liver_2", ["Task03/labelsTr/liver_2.nii.gz"]),
        "Task03/imagesTs/liver_3.nii.gz": ("liver_3", []),
    }
    assert reasons(indexed(tmp_path)[1]) == {
        "Task03/dataset.json": "not_medical",
        "Task03/imagesTr/._liver_1.nii.gz": "not_medical",
        "Task03/imagesTr/._liver_2.nii.gz": "not_medical",
        "Task03/labelsTr/liver_1.nii.gz": "mask",
        "Task03/labelsTr/liver_2.nii.gz": "mask",
    }


def test_one_case_name_in_two_data_sets_is_two_patients(tmp_path: Path) -> None:
    for task in ("A", "B"):
        ct(tmp_path / task / "imagesTr" / "case_1.nii.gz")
        labels(tmp_path / task / "labelsTr" / "case_1.nii.gz")
    ct(tmp_path / "B" / "imagesTr" / "case_2.nii.gz")
    assert found(tmp_path) == {
        "A/imagesTr/case_1.nii.gz": ("A/case_1", ["A/labelsTr/case_1.nii.gz"]),
        "B/imagesTr/case_1.nii.gz": ("B/case_1", ["B/labelsTr/case_1.nii.gz"]),
        "B/imagesTr/case_2.nii.gz": ("case_2", []),
    }


def test_nnunet_channels(tmp_path: Path) -> None:
    for channel in range(2):
        ct(tmp_path / "imagesTr" / f"liver_001_{channel:04d}.nii.gz", channel)
    labels(tmp_path / "labelsTr" / "liver_001.nii.gz")
    assert layout_of(tmp_path) == ("nnunet", False)
    mask = ["labelsTr/liver_001.nii.gz"]
    both = {f"imagesTr/liver_001_{k:04d}.nii.gz": ("liver_001", mask) for k in range(2)}
    assert found(tmp_path) == both
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "CT", "1": "PET"}}')
    assert list(found(tmp_path)) == ["imagesTr/liver_001_0000.nii.gz"]
    assert reasons(indexed(tmp_path)[1])["imagesTr/liver_001_0001.nii.gz"] == "not_ct"
    (tmp_path / "dataset.json").write_text("[broken")
    assert found(tmp_path) == both


def test_totalsegmentator(tmp_path: Path) -> None:
    for case in ("s0001", "s0002"):
        ct(tmp_path / case / "ct.nii.gz")
        for organ in ("liver", "adrenal_gland_left", "vertebrae_L1"):
            labels(tmp_path / case / "segmentations" / f"{organ}.nii.gz", (1,))
    (tmp_path / "meta.csv").write_text("image_id\n")
    assert layout_of(tmp_path) == ("totalsegmentator", False)
    for case in ("s0001", "s0002"):
        patient, masks = found(tmp_path)[f"{case}/ct.nii.gz"]
        assert patient == case
        names = ("adrenal_gland_left", "liver")
        assert masks == [f"{case}/segmentations/{name}.nii.gz" for name in names]
    entries, odd = indexed(tmp_path)
    assert {mask.labels for e in entries for mask in e.masks} == {"file_name"}
    assert reasons(odd)["s0001/segmentations/vertebrae_L1.nii.gz"] == "mask"


def test_a_ct_among_the_masks_of_totalsegmentator_is_a_series(tmp_path: Path) -> None:
    case = tmp_path / "s0001"
    ct(case / "ct.nii.gz")
    ct(case / "segmentations" / "ct_again.nii.gz", 1)
    ct(case / "segmentations" / "liver.nii.gz", 2)
    labels(case / "segmentations" / "spleen.nii.gz", (1,))
    labels(case / "segmentations" / "hip_left.nii.gz", (1,))
    values = np.zeros(SHAPE)
    values[2:5, 3:9, 3:9] = 1
    write_nifti(case / "segmentations" / "rib_left_1.nii.gz", values)
    spleen = ["s0001/segmentations/spleen.nii.gz"]
    assert found(tmp_path) == {
        "s0001/ct.nii.gz": ("s0001", spleen),
        "s0001/segmentations/ct_again.nii.gz": ("s0001", spleen),
        "s0001/segmentations/liver.nii.gz": ("s0001", spleen),
    }
    assert set(reasons(indexed(tmp_path)[1]).values()) == {"mask"}


@pytest.mark.parametrize(
    ("dtype", "slope", "expected"),
    [(np.uint8, 1, True), (np.uint8, 8, False), (np.int16, 1, False), (np.int8, 1, False)],
)
def test_unscaled_bytes_are_told_by_the_header_alone(
    tmp_path: Path, dtype: type[np.generic], slope: float, expected: bool
) -> None:
    path = tmp_path / "x.nii"
    image = nibabel.Nifti1Image(np.zeros(SHAPE, dtype), np.diag([2.0, 2, 5, 1]))
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)
    assert holds_unscaled_bytes(path) is expected
    assert not holds_unscaled_bytes(tmp_path / "missing.nii")


def test_cases_of_totalsegmentator_in_a_folder_keep_their_names(tmp_path: Path) -> None:
    for case in ("one/s0001", "one/s0002"):
        ct(tmp_path / case / "ct.nii.gz")
        labels(tmp_path / case / "segmentations" / "liver.nii.gz", (1,))
    assert {patient for patient, _ in found(tmp_path).values()} == {"s0001", "s0002"}
    ct(tmp_path / "two" / "s0001" / "ct.nii.gz")
    both = found(tmp_path)
    assert {patient for patient, _ in both.values()} == {"one/s0001", "s0002", "two/s0001"}
    assert both["one/s0001/ct.nii.gz"][1] == ["one/s0001/segmentations/liver.nii.gz"]


def test_segmentations_beside_a_folder_of_slices(tmp_path: Path) -> None:
    write_stack(tmp_path / "p" / "dicom", 9)
    for organ in ("liver", "spleen", "rib_left_1"):
        labels(tmp_path / "p" / "segmentations" / f"{organ}.nii.gz", (1,))
    (entry,), _ = indexed(tmp_path)
    assert [(mask.path, mask.labels) for mask in entry.masks] == [
        ("p/segmentations/liver.nii.gz", "file_name"),
        ("p/segmentations/spleen.nii.gz", "file_name"),
    ]


def test_images_beside_labels_in_a_tree_of_any_kind(tmp_path: Path) -> None:
    write_stack(tmp_path / "dicom", 9)
    for k in (1, 2):
        ct(tmp_path / "set" / "images" / f"p{k}.nii.gz", k)
        labels(tmp_path / "set" / "labels" / f"p{k}.nii.gz")
    patients = found(tmp_path)
    assert patients["set/images/p1.nii.gz"] == ("p1", ["set/labels/p1.nii.gz"])
    assert patients["set/images/p2.nii.gz"] == ("p2", ["set/labels/p2.nii.gz"])


@pytest.mark.parametrize("beside", ["label map", "fork", "annex"])
def test_the_patient_does_not_depend_on_what_lies_beside(tmp_path: Path, beside: str) -> None:
    ct(tmp_path / "a" / "p1.nii.gz")
    ct(tmp_path / "a" / "p2.nii.gz")
    expected = {"a/p1.nii.gz": ("p1", []), "a/p2.nii.gz": ("p2", [])}
    assert found(tmp_path) == expected
    if beside == "label map":
        labels(tmp_path / "annotations" / "p1.nii.gz")
    elif beside == "fork":
        (tmp_path / "__MACOSX").mkdir()
        (tmp_path / "__MACOSX" / "p1.nii.gz").write_bytes(b"Mac OS X")
        (tmp_path / "a" / "._p1.nii.gz").write_bytes(b"Mac OS X")
    else:
        ct(tmp_path / ".git" / "annex" / "objects" / "p1.nii.gz")
    patients = found(tmp_path)
    assert {source: patients[source] for source in expected} == expected
    others = reasons(indexed(tmp_path)[1])
    assert set(others.values()) <= {"not_medical"}


def test_a_ct_that_is_named_as_a_mask_is_an_image(tmp_path: Path) -> None:
    for name in ("HCC-TACE-Seg_002", "Seg_mask_labels", "019_LIDC", "x_019"):
        ct(tmp_path / f"{name}.nii.gz")
    ct(tmp_path / "masks" / "scan.nii.gz")
    labels(tmp_path / "019_mask_liver.nii.gz")
    assert found(tmp_path) == {
        "019_LIDC.nii.gz": ("019_LIDC", ["019_mask_liver.nii.gz"]),
        "HCC-TACE-Seg_002.nii.gz": ("HCC-TACE-Seg_002", []),
        "Seg_mask_labels.nii.gz": ("Seg_mask_labels", []),
        "masks/scan.nii.gz": ("scan", []),
        "x_019.nii.gz": ("x_019", []),
    }


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros(SHAPE, np.uint8), True),
        (np.repeat(np.arange(10, dtype=np.uint8), 576).reshape(SHAPE), True),
        (np.kron(RNG.integers(0, 120, (10, 4, 4)), np.ones((1, 6, 6))).astype(np.int16), True),
        (np.kron(RNG.integers(0, 5, (10, 4, 4)), np.ones((1, 6, 6))).astype(np.float32), True),
        (RNG.normal(40, 20, SHAPE).astype(np.int16), False),
        (RNG.normal(1064, 20, SHAPE).astype(np.uint16), False),
        (RNG.integers(0, 256, SHAPE).astype(np.uint8), False),
        (RNG.integers(0, 40, SHAPE).astype(np.uint8), False),
        (np.full(SHAPE, -1024, np.int16), False),
        (RNG.random(SHAPE).astype(np.float32), False),
    ],
)
def test_label_maps_by_content(
    tmp_path: Path, values: npt.NDArray[np.generic], expected: bool
) -> None:
    write_nifti(tmp_path / "x.nii.gz", values)
    assert is_label_map(tmp_path / "x.nii.gz") is expected


def test_an_image_with_blank_slices_first_is_no_label_map(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.int16)
    values[6:] = RNG.normal(40, 20, (4, 24, 24))
    write_nifti(tmp_path / "x.nii", values)
    assert is_label_map(tmp_path / "x.nii") is False
    (tmp_path / "x.nii").write_bytes(b"")
    assert is_label_map(tmp_path / "x.nii") is None


def test_a_label_map_changes_no_patient(tmp_path: Path) -> None:
    for seed, path in enumerate(("s1/ct.nii.gz", "s2/ct.nii.gz", "s4/other.nii.gz")):
        ct(tmp_path / path, seed)
    before = {source: patient for source, (patient, _) in found(tmp_path).items()}
    assert before == {"s1/ct.nii.gz": "s1", "s2/ct.nii.gz": "s2", "s4/other.nii.gz": "other"}
    labels(tmp_path / "s4" / "ct.nii.gz")
    after = {source: patient for source, (patient, _) in found(tmp_path).items()}
    assert before.items() <= after.items()
