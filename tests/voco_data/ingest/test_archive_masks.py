"""Masks that are read again for the rows of a store: of cubes whose voxels are known."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from tests.support.ct_files import body, write_slices
from voco_data.errors import InputError
from voco_data.ingest.archive_masks import ArchiveMasks
from voco_data.ingest.run import preprocess
from voco_data.store.archive_mask import ArchiveMask
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

SPEC = StoreSpec(profile="coarse", grid=(8, 12, 20), crop="none")
SHAPE = (24, 60, 60)


def cube(z: slice, y: slice, x: slice) -> npt.NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[z, y, x] = 1
    return labels


LIVER = cube(slice(5, 15), slice(20, 40), slice(10, 30))


def write_mask(series: Path, organ: str, labels: npt.NDArray[np.uint8]) -> None:
    """By hand in RAS: the slices of `write_slices` start at LPS (-60, -60, -100)."""
    affine = np.array([[-2, 0, 0, 60], [0, -2, 0, 60], [0, 0, 5, -100], [0, 0, 0, 1.0]])
    (series / "segmentations").mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine)
    nibabel.save(image, series / "segmentations" / f"{organ}.nii.gz")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Patients a and c with masks, b without."""
    for name in "abc":
        write_slices(
            tmp_path / "in" / name, body(seed=ord(name)), tags={"PatientID": f"pat-{name}"}
        )
    write_mask(tmp_path / "in/a", "liver", LIVER)
    write_mask(tmp_path / "in/a", "spleen", LIVER * 0)
    write_mask(tmp_path / "in/c", "liver", LIVER[::-1])
    return tmp_path / "in"


def fill(archive: Path, **options: object) -> Store:
    spec = archive.parent / "spec.json"
    spec.write_text(SPEC.canonical_json())
    root = archive.parent / "root"
    preprocess(archive, root, spec_file=spec, workers=1, **options)
    return Store.open(root / SPEC.name)


def read(archive: Path, store: Store, rows: list[int]) -> dict[int, ArchiveMask]:
    found = ArchiveMasks(archive, store).read(rows, on_grid=True)
    return {mask.record.row: mask for mask in found}


@pytest.mark.parametrize("keep_ids", [True, False])
def test_masks_are_found_for_their_rows_whatever_the_ids(archive: Path, keep_ids: bool) -> None:
    store = fill(archive, keep_ids=keep_ids)
    masks = read(archive, store, store.rows.tolist())
    with_masks = store.catalogue[store.catalogue["flags"].str.contains("mask")]["row"].tolist()
    assert sorted(masks) == with_masks
    assert len(masks) == 2
    tops = []
    for mask in masks.values():
        liver = np.isin(mask.voxels, list(mask.labels["liver"]))
        places = np.argwhere(liver)
        assert len(places) == 10 * 20 * 20
        low = np.multiply(places.min(axis=0) - 0.5, mask.record.spacing_mm)
        np.testing.assert_allclose(
            low + mask.record.canonical_first_mm, mask.record.organs["liver"][0]
        )
        tops.append(int(places.max(axis=0)[0]))
        maps = store.read_organ_maps([mask.record.row], ["liver"])
        np.testing.assert_array_equal(mask.on_grid["liver"].any(axis=1), maps.coronal[0, 0])
        np.testing.assert_array_equal(mask.on_grid["liver"].any(axis=2), maps.sagittal[0, 0])
        # Slices in threes, rows in fives, columns in threes: 4 x 4 x 7 voxels of the grid.
        assert mask.on_grid["liver"].sum() == 4 * 4 * 7
    assert sorted(tops) == [14, 18]
    absent = [mask for mask in masks.values() if "spleen" in mask.labels]
    assert [mask.labels["spleen"] for mask in absent] == [frozenset()]
    assert not absent[0].on_grid["spleen"].any()


def test_only_the_given_rows_are_read(archive: Path) -> None:
    store = fill(archive, keep_ids=True)
    row = int(store.catalogue.set_index("patient_id").loc["pat-c", "row"])
    assert list(read(archive, store, [row])) == [row]
    other = int(store.catalogue.set_index("patient_id").loc["pat-b", "row"])
    assert read(archive, store, [other]) == {}


def test_files_of_other_rows_are_not_read(archive: Path) -> None:
    """The slices of another row are damaged, with the same size and time."""
    store = fill(archive, keep_ids=True)
    file = sorted((archive / "a").glob("*.dcm"))[3]
    stat = file.stat()
    file.write_bytes(bytes(stat.st_size))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    table = store.catalogue.set_index("patient_id")
    assert len(read(archive, store, [int(table.loc["pat-c", "row"])])) == 1


def test_a_copied_archive_is_the_same_archive(archive: Path, tmp_path: Path) -> None:
    """Its files have other times, so that all are read."""
    store = fill(archive, keep_ids=True)
    shutil.copytree(archive, tmp_path / "copy" / "deeper", copy_function=shutil.copyfile)
    masks = read(tmp_path / "copy", store, store.rows.tolist())
    assert sorted(mask.record.patient_id for mask in masks.values()) == ["pat-a", "pat-c"]


def test_a_series_without_masks_that_has_the_same_voxels_has_none(archive: Path) -> None:
    write_slices(archive / "d", body(seed=ord("a")), tags={"PatientID": "pat-d"})
    store = fill(archive, keep_ids=True)
    masks = read(archive, store, store.rows.tolist())
    assert sorted(mask.record.patient_id for mask in masks.values()) == ["pat-a", "pat-c"]


def test_another_archive_and_changed_masks_are_one_line(archive: Path, tmp_path: Path) -> None:
    store = fill(archive, keep_ids=True)
    other = tmp_path / "other"
    write_slices(other / "e", body(seed=7), tags={"PatientID": "pat-e"})
    write_mask(other / "e", "liver", LIVER)
    with pytest.raises(InputError, match="give the archive that the store was filled from") as one:
        read(other, store, store.rows.tolist())
    write_mask(archive / "a", "liver", np.roll(LIVER, 3, axis=0))
    with pytest.raises(InputError, match="have changed since; run voco preprocess") as two:
        read(archive, store, store.rows.tolist())
    for caught in (one, two):
        assert "\n" not in str(caught.value)
