"""Organ maps from files to a store: of masks that come and go, and of a patient who is erased."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from tests.support.ct_files import body, write_slices
from voco_data.erasure.patient import forget_patient
from voco_data.ingest.options import IngestOptions, choose_specs
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.store.keys import record_key
from voco_data.store.organ_maps import OrganMaps
from voco_data.store.reader import Store
from voco_data.store.spec import FINETUNE, LOCALISE, PRETRAIN, StoreSpec

WHOLE = StoreSpec(profile="whole", grid=(24, 60, 60), crop="none")
COARSE = StoreSpec(profile="coarse", grid=(8, 12, 20), crop="none")
ORGANS = ("liver", "spleen", "kidney_left")
SHAPE = (24, 60, 60)


def block(z: slice, y: slice, x: slice) -> npt.NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[z, y, x] = 1
    return labels


LIVER = block(slice(5, 15), slice(20, 40), slice(10, 30))


def write_mask(series: Path, organ: str, labels: npt.NDArray[np.uint8]) -> None:
    """By hand in RAS: the slices of `write_slices` start at LPS (-60, -60, -100)."""
    affine = np.array([[-2, 0, 0, 60], [0, -2, 0, 60], [0, 0, 5, -100], [0, 0, 0, 1.0]])
    folder = series / "segmentations"
    folder.mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine)
    nibabel.save(image, folder / f"{organ}.nii.gz")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_slices(
            tmp_path / "in" / name, body(seed=ord(name)), tags={"PatientID": f"pat-{name}"}
        )
    (tmp_path / "specs.json").write_text(f"[{WHOLE.canonical_json()}, {COARSE.canonical_json()}]")
    return tmp_path / "in"


def run(archive: Path, **options: object) -> PreprocessSummary:
    folder = archive.parent
    options = {"keep_ids": True, "workers": 1, "spec_file": folder / "specs.json"} | options
    return preprocess(archive, folder / "root", **options)  # type: ignore[arg-type]


def maps_of(archive: Path, spec: StoreSpec, patient: str) -> OrganMaps:
    store = Store.open(archive.parent / "root" / spec.name)
    table = store.catalogue.set_index("patient_id")
    return store.read_organ_maps([table.loc[patient, "row"]], ORGANS)


def test_maps_are_those_of_the_mask_on_each_grid(archive: Path) -> None:
    write_mask(archive / "a", "liver", LIVER)
    write_mask(archive / "a", "spleen", LIVER * 0)
    run(archive)
    whole, coarse = (maps_of(archive, spec, "pat-a") for spec in (WHOLE, COARSE))
    assert whole.is_known.tolist() == coarse.is_known.tolist() == [[True, True, False]]
    np.testing.assert_array_equal(whole.coronal[0, 0], LIVER.any(axis=1))
    np.testing.assert_array_equal(whole.sagittal[0, 0], LIVER.any(axis=2))
    # Slices 5 to 14 in threes, columns 10 to 29 in threes, rows 20 to 39 in fives.
    assert np.flatnonzero(coarse.coronal[0, 0].any(axis=1)).tolist() == [1, 2, 3, 4]
    assert np.flatnonzero(coarse.coronal[0, 0].any(axis=0)).tolist() == list(range(3, 10))
    assert np.flatnonzero(coarse.sagittal[0, 0].any(axis=0)).tolist() == [4, 5, 6, 7]
    for maps in (whole, coarse):
        assert not maps.coronal[0, 1:].any()
    assert not maps_of(archive, WHOLE, "pat-b").is_known.any()


def records(archive: Path, spec: StoreSpec) -> dict[str, bytes]:
    """The text of the record of each patient."""
    store = Store.open(archive.parent / "root" / spec.name)
    rows = zip(store.catalogue["patient_id"], store.catalogue["row"], strict=True)
    return {patient: (store.path / record_key(row)).read_bytes() for patient, row in rows}


def test_a_mask_that_comes_changes_and_goes_renews_its_series_alone(archive: Path) -> None:
    run(archive)
    before = records(archive, WHOLE)
    for change, known in (
        (lambda: write_mask(archive / "b", "liver", LIVER), [True, False, False]),
        (lambda: write_mask(archive / "b", "kidney_left", LIVER * 0), [True, False, True]),
        (lambda: write_mask(archive / "b", "kidney_left", LIVER[::-1]), [True, False, True]),
        ((archive / "b/segmentations/liver.nii.gz").unlink, [False, False, True]),
        ((archive / "b/segmentations/kidney_left.nii.gz").unlink, [False, False, False]),
    ):
        change()
        summary = run(archive)
        assert (summary.stored, summary.cached) == (1, 1)
        assert maps_of(archive, COARSE, "pat-b").is_known.tolist() == [known]
        after = records(archive, WHOLE)
        assert after["pat-a"] == before["pat-a"]
        assert (b"organ_maps" in after["pat-b"]) == any(known)
        assert run(archive).cached == 2


def test_a_mask_beside_a_given_box_is_a_part_of_the_input(archive: Path) -> None:
    boxes = archive.parent / "boxes.csv"
    run(archive)
    series = Store.open(archive.parent / "root" / WHOLE.name).catalogue.set_index("patient_id")
    uid = series.loc["pat-b", "series_uid"]
    boxes.write_text(f"series_uid,z_low_mm,z_high_mm\n{uid},-72.5,-22.5\n")
    assert run(archive, boxes=boxes).stored == 1
    write_mask(archive / "b", "liver", LIVER)
    assert run(archive, boxes=boxes).stored == 1
    assert maps_of(archive, WHOLE, "pat-b").is_known.tolist() == [[True, False, False]]


def test_nothing_of_the_maps_is_left_of_a_patient_who_is_erased(archive: Path) -> None:
    write_mask(archive / "a", "liver", LIVER)
    run(archive)
    root = archive.parent / "root"
    outer = json.loads(records(archive, WHOLE)["pat-a"])
    text = json.loads(outer["record"])["organ_maps"]["liver"]
    assert any(text.encode() in path.read_bytes() for path in root.rglob("*.json"))
    forget_patient(root, "pat-a", yes=True)
    assert not any(text.encode() in p.read_bytes() for p in root.rglob("*") if p.is_file())
    assert maps_of(archive, WHOLE, "pat-b").is_known.tolist() == [[False] * 3]


def test_a_run_fills_the_localisation_store_only_if_it_is_named() -> None:
    assert choose_specs(IngestOptions()) == [PRETRAIN, FINETUNE]
    assert choose_specs(IngestOptions(specs=("localise",))) == [LOCALISE]
