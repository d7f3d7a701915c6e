"""Archives whose ids or headers do not say what belongs together, from files to the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import RLELossless

from tests.support.ct_files import body, write_slices
from voco_data.ingest.run import preprocess
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Bring the store up to date with `tmp_path/in`; returns the ledger."""
    specs = tmp_path / "specs.json"
    specs.write_text(f"[{SMALL.canonical_json()}]")

    def preprocess_archive(**options: Any) -> pd.DataFrame:
        options = {"keep_ids": True, "workers": 1, "spec_file": specs} | options
        summary = preprocess(tmp_path / "in", tmp_path / "root", **options)
        table = pd.read_parquet(summary.ledger)
        table.attrs["summary"] = summary
        return table

    return preprocess_archive


Run = Callable[..., pd.DataFrame]


def alternate(one: Any, other: Any) -> Callable[[int], Any]:
    return lambda index: other if index % 2 else one


def halves(one: Any, other: Any) -> Callable[[int], Any]:
    return lambda index: other if index >= 12 else one


@pytest.mark.parametrize("divide", [alternate, halves])
def test_two_patients_in_one_series_are_one_refused_row(
    tmp_path: Path, run: Run, divide: Callable[..., Any]
) -> None:
    write_slices(tmp_path / "in", body(), tags={"PatientID": divide("p", "q")})
    (row,) = run().to_dict("records")
    assert (row["kind"], row["status"], row["reason"]) == ("series", "refused", "mixed_patients")
    assert (row["n_slices"], row["patient_id"]) == (24, "p")
    assert "PatientID" in row["detail"]


@pytest.mark.parametrize("tag", ["PatientID", "StudyInstanceUID"])
def test_three_scans_a_third_of_a_step_apart_are_stored(tmp_path: Path, run: Run, tag: str) -> None:
    """Parts by ImageType would be refused: they name several patients, or have large gaps."""
    image_type = [[kind, "PRIMARY", "AXIAL"] for kind in ("DERIVED", "ORIGINAL", "ORIGINAL")]
    for scan in range(3):
        write_slices(
            tmp_path / "in" / str(scan),
            body((9, 60, 60), seed=scan),
            origin_mm=(-60.0, -60.0, -100.0 + scan * 5 / 3),
            tags={
                "SeriesInstanceUID": "1.2",
                "ImageType": lambda k: image_type[k % 3],
                tag: f"1.{scan}",
            },
        )
    rows = run()
    assert rows["status"].tolist() == ["stored"] * 3
    assert rows["n_slices"].tolist() == [9] * 3
    assert sorted(rows["source"]) == ["0", "1", "2"]
    assert rows["patient_id"].nunique() == (3 if tag == "PatientID" else 1)


@pytest.mark.parametrize("divide", [alternate, halves])
@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("ImageOrientationPatient", ([1, 0, 0, 0, 1, 0], [1, 0.01, 0, -0.01, 1, 0])),
        ("PixelSpacing", ([2, 2], [2.006, 2.006])),
    ],
)
def test_rounded_geometry_is_one_refused_row(
    tmp_path: Path, run: Run, divide: Callable[..., Any], tag: str, values: tuple[Any, Any]
) -> None:
    write_slices(tmp_path / "in", body(), tags={tag: divide(*values)})
    (row,) = run().to_dict("records")
    assert (row["status"], row["reason"], row["n_slices"]) == ("refused", "mixed_geometry", 24)


def test_a_study_for_each_slice_is_stored_whole(tmp_path: Path, run: Run) -> None:
    write_slices(tmp_path / "in", body(), tags={"StudyInstanceUID": lambda k: f"1.7.{k}"})
    (row,) = run().to_dict("records")
    assert (row["status"], row["n_slices"]) == ("stored", 24)
    (again,) = run().to_dict("records")
    assert (again["status"], again["series_uid"]) == ("cached", row["series_uid"])


def test_a_study_for_each_slice_and_rounded_spacings_are_one_row(tmp_path: Path, run: Run) -> None:
    tags = {"StudyInstanceUID": lambda k: f"1.7.{k}", "PixelSpacing": alternate([2, 2], [2.006, 2])}
    write_slices(tmp_path / "in", body(), tags=tags)
    (row,) = run().to_dict("records")
    assert (row["status"], row["reason"], row["n_slices"]) == ("refused", "mixed_geometry", 24)


@pytest.mark.parametrize("divide", [alternate, halves])
def test_two_patients_without_a_series_uid_are_one_refused_row(
    tmp_path: Path, run: Run, divide: Callable[..., Any]
) -> None:
    tags = {"SeriesInstanceUID": "", "PatientID": divide("p", "q")}
    write_slices(tmp_path / "in", body(), tags=tags)
    (row,) = run().to_dict("records")
    assert (row["status"], row["reason"], row["n_slices"]) == ("refused", "mixed_patients", 24)


def compressed(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(path)


def padded(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.add_new(0xFFFCFFFC, "OB", bytes(64))  # Data Set Trailing Padding
    dataset.save_as(path)


@pytest.mark.parametrize("change", [compressed, padded])
def test_a_copy_that_is_encoded_otherwise_is_dropped(
    tmp_path: Path, run: Run, change: Callable[[Path], None]
) -> None:
    tags = {"SeriesInstanceUID": "1.9"}
    write_slices(tmp_path / "in" / "a", body(seed=3), tags=tags)
    for path in write_slices(tmp_path / "in" / "b", body(seed=3), tags=tags):
        change(path)
    (row,) = run().to_dict("records")
    assert (row["status"], row["n_slices"], row["series_uid"]) == ("stored", 24, "1.9")
    assert row["flags"] == "dropped_duplicates"


def test_two_scans_and_a_copy_of_one_that_share_all_ids(tmp_path: Path, run: Run) -> None:
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_slices(tmp_path / "in" / folder, body(seed=seed), tags={"SeriesInstanceUID": "1.9"})
    table = run()
    assert table["status"].tolist() == ["stored", "stored"]
    assert table["n_slices"].tolist() == [24, 24]
    assert sorted(table["flags"]) == ["", "dropped_duplicates"]


def test_phases_told_apart_by_percentage_are_two_volumes(tmp_path: Path, run: Run) -> None:
    for k, percent in enumerate((40.0, 75.0)):
        tags = {"NominalPercentageOfCardiacPhase": percent, "SeriesInstanceUID": "1.9"}
        names = [f"{k}_{j}.dcm" for j in range(24)]
        write_slices(tmp_path / "in", body(seed=k), names=names, tags=tags)
    table = run()
    assert table["status"].tolist() == ["stored", "stored"]
    assert table["n_slices"].tolist() == [24, 24]
    assert table["source"].nunique() == table["series_uid"].nunique() == 2


def test_phases_that_nothing_tells_apart_are_refused_with_what_was_tried(
    tmp_path: Path, run: Run
) -> None:
    for k in range(2):
        names = [f"{k}_{j}.dcm" for j in range(24)]
        tags = {"SeriesInstanceUID": "1.9"}
        write_slices(tmp_path / "in", body(seed=k), names=names, tags=tags)
    (row,) = run().to_dict("records")
    assert (row["status"], row["reason"]) == ("refused", "duplicate_positions")
    assert all(name in row["detail"] for name in ("AcquisitionNumber", "SeriesNumber", "Time"))


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ImagePositionPatient": None}, "missing_geometry"),
        ({"BurnedInAnnotation": "YES"}, "burned_in"),
    ],
)
def test_a_fault_in_every_header_is_one_refused_series(
    tmp_path: Path, run: Run, tags: dict[str, Any], reason: str
) -> None:
    write_slices(tmp_path / "in" / "bad", body(), tags=tags | {"PatientID": "LOST"})
    write_slices(tmp_path / "in" / "good", body())
    table = run()
    bad = table[table["source"] == "bad"].iloc[0]
    assert (bad["kind"], bad["status"], bad["reason"]) == ("series", "refused", reason)
    assert (bad["patient_id"], bad["n_slices"]) == ("LOST", 24)
    summary = table.attrs["summary"]
    assert (summary.stored, summary.refused, summary.refused_files) == (1, 1, 0)


def test_one_slice_without_position_refuses_its_series(tmp_path: Path, run: Run) -> None:
    path = write_slices(tmp_path / "in", body())[11]
    dataset = pydicom.dcmread(path)
    del dataset.ImagePositionPatient
    dataset.save_as(path)
    (row,) = run().to_dict("records")
    assert (row["status"], row["reason"]) == ("refused", "missing_geometry")
    assert row["detail"].startswith("file 12 of 24: ")
    assert row["n_slices"] == 24


def test_an_empty_and_a_torn_last_file_are_the_same(tmp_path: Path, run: Run) -> None:
    contents = {"empty": lambda b: b"", "header": lambda b: b[:400], "pixels": lambda b: b[:-3000]}
    for name, cut in contents.items():
        last = write_slices(tmp_path / "in" / name, body())[-1]
        last.write_bytes(cut(last.read_bytes()))
    table = run()
    assert table["kind"].tolist() == ["series"] * 3
    assert table["status"].tolist() == ["refused"] * 3
    assert table["reason"].tolist() == ["unreadable"] * 3
    assert table["n_slices"].tolist() == [24] * 3


def test_a_lost_file_beside_two_series_shows_in_their_flags(tmp_path: Path, run: Run) -> None:
    for k in range(2):
        names = [f"{k}_{j}.dcm" for j in range(24)]
        tags = {"SeriesInstanceUID": f"1.9.{k}"}
        write_slices(tmp_path / "in", body(seed=k), names=names, tags=tags)
    assert run()["flags"].tolist() == ["", ""]
    (tmp_path / "in" / "2_0.dcm").write_bytes(b"")
    table = run()
    series = table.query("kind == 'series'")
    assert series["flags"].tolist() == ["lost_files", "lost_files"]
    assert table.query("kind == 'file'")["reason"].tolist() == ["unreadable"]


def test_organs_are_named_after_their_files(tmp_path: Path, run: Run) -> None:
    hu = body((30, 60, 60))
    affine = np.diag([-2.0, -2, 5, 1])
    case = tmp_path / "in" / "s0001"
    (case / "segmentations").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine), case / "ct.nii.gz")
    for k, organ in enumerate(("liver", "adrenal_gland_right", "hip_left")):
        labels = np.zeros(hu.shape, np.uint8)
        labels[5 + 8 * k : 12 + 8 * k, 20:40, 20:40] = 1
        image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine)
        nibabel.save(image, case / "segmentations" / f"{organ}.nii.gz")
    row = run().query("kind == 'series'").iloc[0]
    assert (row["patient_id"], row["status"], row["flags"]) == ("s0001", "stored", "mask")
    (path,) = (tmp_path / "root").glob("small-*.zarr")
    (file,) = (path / "volumes" / "records").rglob("*.json")
    record = json.loads(json.loads(file.read_text())["record"])
    assert set(record["organs"]) == {"liver", "adrenal_right"}
