"""Masks on the voxels of their series: against the phantom, highdicom, ITK and real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings, strategies as st
from pydicom.sr.codedict import codes

from tests.support.ct_files import body, write_slices
from voco_data.cohort import MaskFile
from voco_data.dicom.series.reader import read_series
from voco_data.masks.dicom_seg import read_seg
from voco_data.masks.files import read_masks
from voco_data.masks.organs import RATIC_ORGANS, find_organs, match_organ
from voco_data.masks.placement import (
    LabelCut,
    Mask,
    MaskMisplacedError,
    PlacedMask,
    place_mask,
)
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_data.phantom.ratic import write_patient
from voco_data.phantom.render import render_scan
from voco_data.volumes.geometry import Geometry
from voco_data.volumes.slice_spacing import GapPolicy
from voco_data.volumes.volume import Volume

SHAPE = (24, 60, 60)


def series(folder: Path, **options: object) -> Volume:
    paths = write_slices(folder, body(), **options)  # type: ignore[arg-type]
    return read_series(paths, gaps=GapPolicy(0.05), min_slices=8)


def organ() -> npt.NDArray[np.uint16]:
    """An array that differs from each of its flips and permutations."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[3:9, 10:14, 40:55] = 1
    labels[15:17, 20:50, 5:8] = 4
    return labels


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(3)), flips=st.tuples(*[st.booleans()] * 3))
def test_any_order_and_direction_of_axes_lands_on_the_same_voxels(
    order: list[int], flips: tuple[bool, ...]
) -> None:
    on = Geometry(SHAPE, (5.0, 2.0, 2.0), (-7.0, 3.0, 90.0), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    turned = organ().transpose(order)
    origin = np.asarray(on.origin_mm)
    axes = []
    for axis, flip in zip(order, flips, strict=True):
        direction = np.asarray(on.axes[axis])
        if flip:
            origin = origin + direction * on.spacing_mm[axis] * (SHAPE[axis] - 1)
        axes.append(tuple(-direction if flip else direction))
    turned = turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    spacing = tuple(on.spacing_mm[axis] for axis in order)
    own = Geometry(turned.shape, spacing, tuple(origin.tolist()), tuple(axes))  # type: ignore[arg-type]
    placed = place_mask(Mask(turned, own, {}), on)
    assert np.array_equal(placed.labels, organ())


@pytest.mark.parametrize("flip", [False, True])
def test_a_label_at_the_face_of_a_partial_mask_is_cut_there(flip: bool) -> None:
    """The mask covers slices 4 to 15: label 1 fills 3..8, label 4 fills 15..16."""
    axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    on = Geometry(SHAPE, (5.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
    part = organ()[4:16]
    own = Geometry(part.shape, (5.0, 2.0, 2.0), (0.0, 0.0, 20.0), axes)
    if flip:  # slices from the top down
        axes = ((0.0, 0.0, -1.0), axes[1], axes[2])
        own = Geometry(part.shape, (5.0, 2.0, 2.0), (0.0, 0.0, 75.0), axes)
        part = part[::-1]
    placed = place_mask(Mask(part, own, {}), on)
    assert placed.cuts == {LabelCut(1, 0, upper=False), LabelCut(4, 0, upper=True)}
    assert placed.digest != PlacedMask(placed.labels, {}).digest
    sparse = place_mask(Mask(part, own, {}, omits_empty_slices=True), on)
    assert sparse.cuts == frozenset()


def test_a_mask_of_the_whole_series_cuts_nothing() -> None:
    axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    on = Geometry(SHAPE, (5.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
    assert place_mask(Mask(np.ones(SHAPE, np.uint16), on, {}), on).cuts == frozenset()


@pytest.mark.parametrize(
    ("moved_mm", "spacing"),
    [((0.0, 0.0, 2.5), 2.0), ((0.0, 1.0, 0.0), 2.0), ((0.0, 0.0, 0.0), 2.1), ((0, 0, 500), 2.0)],
)
def test_a_mask_of_another_grid_is_not_used(
    moved_mm: tuple[float, float, float], spacing: float
) -> None:
    axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    on = Geometry(SHAPE, (5.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
    own = Geometry(SHAPE, (5.0, spacing, 2.0), moved_mm, axes)
    with pytest.raises(MaskMisplacedError):
        place_mask(Mask(organ(), own, {}), on)


def write_nifti(path: Path, labels: npt.NDArray[np.uint16]) -> MaskFile:
    """By hand in RAS: the slices of `write_slices` start at LPS (-60, -60, -100)."""
    affine = np.array([[-2, 0, 0, 60], [0, -2, 0, 60], [0, 0, 5, -100], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8).transpose(2, 1, 0), affine), path)
    return MaskFile(path.name, "nifti", "ratic")


def write_nrrd(path: Path, labels: npt.NDArray[np.uint16]) -> MaskFile:
    image = SimpleITK.GetImageFromArray(labels)
    image.SetSpacing((2.0, 2.0, 5.0))
    image.SetOrigin((-60.0, -60.0, -100.0))
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return MaskFile(path.name, "nrrd", "unknown")


def write_seg(path: Path, slices: list[Path], labels: npt.NDArray[np.uint16]) -> MaskFile:
    """Write a SEG with highdicom, which leaves out empty frames by default."""
    sources = [pydicom.dcmread(file) for file in slices]
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for number, name in ((1, "Liver"), (2, "Left kidney of Jane Doe"))
    ]
    pixels = np.stack([labels == 1, labels == 4], axis=-1)
    segmentation = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="voco",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(path)
    return MaskFile(path.name, "dicom_seg", "unknown")


SEG_TAGS = dict.fromkeys(
    (
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PatientBirthDate",
        "PatientSex",
    ),
    "",
) | {"FrameOfReferenceUID": "1.2.3.4"}


def test_nifti_nrrd_and_seg_are_equal(tmp_path: Path) -> None:
    slices = write_slices(tmp_path, body(), tags=SEG_TAGS)
    volume = read_series(slices, gaps=GapPolicy(0.05), min_slices=8)
    files = [
        write_nifti(tmp_path / "m.nii.gz", organ()),
        write_nrrd(tmp_path / "m.nrrd", organ()),
        write_seg(tmp_path / "m.dcm", slices[::-1], organ()[::-1]),
    ]
    for file in files:
        placed, flags = read_masks(tmp_path, [file], volume.geometry)
        assert placed is not None, file
        assert flags == ("mask",)
        assert np.array_equal(placed.labels > 0, organ() > 0), file
        assert np.unique(placed.labels).size == 3
    seg = read_seg(tmp_path / "m.dcm", SERIES)
    assert seg.names == {1: "liver"}  # the other label is free text


def test_a_mask_file_that_does_not_read_leaves_the_series_alone(tmp_path: Path) -> None:
    volume = series(tmp_path / "ct")
    good = write_nifti(tmp_path / "good.nii", organ())
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8b broken")
    (tmp_path / "away.nrrd").write_text("NRRD0004\ntype: short\ndata file: ../../secret.raw\n\n")
    bad = [
        MaskFile("bad.nii.gz", "nifti", "ratic"),
        MaskFile("away.nrrd", "nrrd", "unknown"),
        MaskFile("gone.nii", "nifti", "ratic"),
    ]
    placed, flags = read_masks(tmp_path, [*bad, good], volume.geometry)
    assert placed is not None
    assert flags == ("mask", "mask_unreadable")


def test_a_mask_that_lies_elsewhere_is_a_flag(tmp_path: Path) -> None:
    volume = series(tmp_path / "ct", origin_mm=(-60.0, -60.0, -97.5))  # half a slice higher
    placed, flags = read_masks(
        tmp_path, [write_nifti(tmp_path / "m.nii", organ())], volume.geometry
    )
    assert (placed, flags) == (None, ("mask_misplaced",))


def test_two_masks_share_one_map(tmp_path: Path) -> None:
    volume = series(tmp_path / "ct")
    liver, kidney = organ(), organ()
    liver[liver == 4] = 0
    kidney[kidney == 1] = 0
    kidney[kidney == 4] = 1  # the same number for another organ
    first = write_nifti(tmp_path / "a.nii", liver)
    second = write_nrrd(tmp_path / "b.nrrd", kidney)
    placed, _ = read_masks(tmp_path, [first, second], volume.geometry)
    assert placed is not None
    organs = find_organs(placed.labels, placed.names)
    assert organs["liver"].start == (3, 10, 40)
    assert organs["label_1"].stop == (17, 50, 8)


def test_names_of_organs_are_a_closed_list() -> None:
    assert match_organ("Left Kidney") == "kidney_left"
    assert match_organ("kidney, left") == "kidney_left"
    assert match_organ("Liver") == "liver"
    assert match_organ("Liver of Jane Doe") == ""


@pytest.mark.parametrize("descending", [False, True])
def test_ratic_segmentations_land_on_the_right_voxels_in_both_z_directions(
    tmp_path: Path, descending: bool
) -> None:
    """Phantom truth: Dice 1.0 for every organ, and left stays left."""
    spec = CohortSpec(patients=1, unlabelled=0, matrix=64, slices=32, segmentation_fraction=1.0)
    plan = plan_patient(spec, 0)
    one = plan.series[0]
    one = replace(one, style=replace(one.style, descending=descending))
    write_patient(replace(plan, series=(one,)), tmp_path)
    folder = tmp_path / "train_images" / str(plan.patient_id) / str(one.series_id)
    volume = read_series(list(folder.iterdir()), gaps=GapPolicy(0.05), min_slices=8)
    file = MaskFile(f"segmentations/{one.series_id}.nii", "nifti", "ratic")
    placed, flags = read_masks(tmp_path, [file], volume.geometry)
    assert placed is not None
    assert flags == ("mask",)
    canonical = volume.geometry.canonical(5.0)
    placed_labels, truth = (
        canonical.to_canonical(placed.labels),
        render_scan(plan.model, one.scan).organs,
    )
    for number, name in RATIC_ORGANS.items():
        ours, theirs = placed_labels == number, truth == number
        assert theirs.any(), name
        dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        assert dice == 1.0, name
    centre = {
        name: np.argwhere(placed_labels == number)[:, 2].mean()
        for number, name in RATIC_ORGANS.items()
    }
    assert centre["kidney_left"] > centre["kidney_right"]  # x grows to the patient's left
    assert centre["spleen"] > centre["liver"]


@pytest.mark.real_ct
def test_a_real_seg_and_its_nrrd_are_one_mask(real_ct: Path) -> None:
    folder = real_ct / "07_dcmqi_ct3slice_liver_seg"
    files = [f for f in sorted(folder.iterdir()) if f.suffix == ".dcm" and "seg" not in f.name]
    volume = read_series(files, gaps=GapPolicy(0.05), min_slices=3)
    counts = []
    for name, kind in (("liver_seg.nrrd", "nrrd"), ("liver_dicomseg.dcm", "dicom_seg")):
        mask = MaskFile(name, kind, "unknown")  # type: ignore[arg-type]
        placed, flags = read_masks(folder, [mask], volume.geometry)
        assert placed is not None
        assert flags == ("mask",)
        counts.append((placed.labels > 0).sum(axis=(1, 2)).tolist())
        assert volume.hu[placed.labels > 0].mean() == pytest.approx(37.3, abs=0.05)
    assert counts == [[36233, 35645, 35220]] * 2


@pytest.mark.real_ct
def test_a_real_label_map_whose_rows_run_the_other_way(real_ct: Path) -> None:
    files = sorted((real_ct / "02_totalseg_siemens_j2k_abdomen").iterdir())
    volume = read_series(files, gaps=GapPolicy(0.05), min_slices=8)
    file = MaskFile("example_seg_dicom.nii.gz", "nifti", "unknown")
    placed, _ = read_masks(real_ct / "03_totalseg_nifti", [file], volume.geometry)
    assert placed is not None
    assert volume.hu[placed.labels == 5].mean() == pytest.approx(89.3, abs=0.05)


STRAIGHT = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
SERIES = Geometry(SHAPE, (5.0, 2.0, 2.0), (-60.0, -60.0, -100.0), STRAIGHT)


@pytest.mark.parametrize(
    ("covered", "omits_empty_slices", "expected"),
    [
        ((0, 24, 0, 60), False, {"liver", "spleen"}),
        ((0, 20, 0, 60), False, set()),
        ((0, 24, 3, 60), False, set()),
        ((0, 20, 0, 60), True, {"liver", "spleen"}),
        ((0, 20, 3, 60), True, set()),
    ],
)
def test_only_a_mask_of_the_whole_series_tells_what_is_absent(
    covered: tuple[int, int, int, int], omits_empty_slices: bool, expected: set[str]
) -> None:
    """A SEG leaves empty slices out, so that they are covered too; rows and columns are not."""
    z0, z1, y0, y1 = covered
    part = organ()[z0:z1, y0:y1]
    origin = (-60.0, -60.0 + 2 * y0, -100.0 + 5 * z0)
    mask = Mask(
        part,
        Geometry(part.shape, (5.0, 2.0, 2.0), origin, STRAIGHT),
        {1: "liver"},
        omits_empty_slices,
        frozenset({"liver", "spleen"}),
    )
    assert place_mask(mask, SERIES).label_set == expected


def test_the_label_set_of_each_kind_of_file(tmp_path: Path) -> None:
    """RATIC marks its five organs everywhere, FLARE23 some, and a file of an organ that organ."""
    write_nifti(tmp_path / "liver.nii.gz", organ() // 4)
    write_nifti(tmp_path / "spleen.nii.gz", organ() * 0)
    write_nifti(tmp_path / "pancreas.nii.gz", organ())  # two labels are not one organ

    def label_set(name: str, labels: str) -> set[str]:
        file = MaskFile(name, "nifti", labels)  # type: ignore[arg-type]
        placed, _ = read_masks(tmp_path, [file], SERIES)
        assert placed is not None
        return set(placed.label_set)

    assert label_set("liver.nii.gz", "ratic") == set(RATIC_ORGANS.values())
    assert label_set("liver.nii.gz", "flare") == set()
    assert label_set("liver.nii.gz", "unknown") == set()
    assert label_set("liver.nii.gz", "file_name") == {"liver"}
    assert label_set("spleen.nii.gz", "file_name") == {"spleen"}
    assert label_set("pancreas.nii.gz", "file_name") == set()


def test_a_mask_of_no_organ_that_comes_later_is_another_input(tmp_path: Path) -> None:
    write_nifti(tmp_path / "liver.nii.gz", organ() // 4)
    write_nifti(tmp_path / "spleen.nii.gz", organ() * 0)
    files = [MaskFile(f"{name}.nii.gz", "nifti", "file_name") for name in ("liver", "spleen")]
    alone, _ = read_masks(tmp_path, files[:1], SERIES)
    both, _ = read_masks(tmp_path, files, SERIES)
    assert alone is not None
    assert both is not None
    assert both.label_set == {"liver", "spleen"}
    assert np.array_equal(alone.labels, both.labels)
    assert alone.digest != both.digest
    # The digest of masks as they were is unchanged: names and voxels.
    assert alone.digest == PlacedMask(alone.labels, alone.names).digest


def test_an_organ_that_another_covers_is_not_taken_for_absent(tmp_path: Path) -> None:
    """The earlier mask has priority: of the second, nothing is left to see."""
    write_nifti(tmp_path / "liver.nii.gz", (organ() > 0).astype(np.uint16))
    write_nifti(tmp_path / "spleen.nii.gz", organ() // 4)
    files = [MaskFile(f"{name}.nii.gz", "nifti", "file_name") for name in ("liver", "spleen")]
    placed, _ = read_masks(tmp_path, files, SERIES)
    assert placed is not None
    assert set(np.unique(placed.labels)) == {0, 1}
    assert placed.label_set == {"liver"}
    placed, _ = read_masks(tmp_path, files[::-1], SERIES)
    assert placed is not None
    assert placed.label_set == {"liver", "spleen"}


def test_the_segments_of_a_seg_are_its_label_set(tmp_path: Path) -> None:
    """A segment without frames was sought and is not there; one that another covers is hidden."""
    slices = write_slices(tmp_path, body(), tags=SEG_TAGS)
    for name, labels in (("all", organ()), ("none", np.where(organ() == 4, organ(), 0))):
        write_seg(tmp_path / f"{name}.dcm", slices, labels)
        assert read_seg(tmp_path / f"{name}.dcm", SERIES).label_set == {"liver"}
    dataset = pydicom.dcmread(tmp_path / "all.dcm")
    dataset.SegmentSequence[1].SegmentLabel = "Spleen"
    dataset.save_as(tmp_path / "both.dcm")
    assert read_seg(tmp_path / "both.dcm", SERIES).label_set == {"liver", "spleen"}
    pixels = np.ones((dataset.NumberOfFrames, *SHAPE[1:]), bool)  # each frame marks everything
    dataset.PixelData = np.packbits(pixels, bitorder="little").tobytes()
    for frame in dataset.PerFrameFunctionalGroupsSequence:  # all of them in one slice
        frame.PlanePositionSequence[0].ImagePositionPatient = [-60, -60, -100]
    dataset.save_as(tmp_path / "hidden.dcm")
    assert read_seg(tmp_path / "hidden.dcm", SERIES).label_set == {"liver"}
