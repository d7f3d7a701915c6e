"""`--ids TABLE`: whose each series is, checked, and replaced by pseudonyms as all ids are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from tests.support.ct_files import body, write_slices
from tests.support.headers import touch, write_stack
from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError
from voco_data.ingest.named_cohort import open_cohort
from voco_data.ingest.options import IngestOptions
from voco_data.ingest.run import preprocess
from voco_data.selection.split import Split
from voco_data.storage.local import LocalStorage
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))


def write_table(path: Path, **patients: str) -> Path:
    rows = [{"series": series, "patient_id": patient} for series, patient in patients.items()]
    table = pd.DataFrame(rows, columns=["series", "patient_id"])
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return path


def patients(archive: Path, table: Path) -> dict[str, str]:
    with open_cohort(archive, IngestOptions(ids=table)) as (cohort, _):
        return {head.source: head.patient_id for head in cohort.heads()}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    touch(folder / "a" / "one_portal.nii.gz", folder / "a" / "one_arterial.nii.gz")
    touch(folder / "a" / "mask.nii.gz", folder / "b" / "two.nii")
    write_stack(folder / "ct", 5, prefix="s", ConvolutionKernel="soft")
    write_stack(folder / "ct", 5, prefix="b", ConvolutionKernel="bone")
    write_stack(folder / "other", 5, SeriesInstanceUID="1.9", PatientID="x")
    return folder


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_name_paths_file_names_folders_and_uids(
    archive: Path, tmp_path: Path, ending: str
) -> None:
    table = write_table(
        tmp_path / f"ids.{ending}",
        **{
            "a/one_portal.nii.gz": "P1",
            "one_arterial.nii.gz": "P1",
            "1.2": "P2",
            "other": " P3 ",
            "a/mask.nii.gz": "P1",
        },
    )
    found = patients(archive, table)
    stacks = {name: found.pop(name) for name in list(found) if name.startswith("ct#")}
    assert sorted(stacks.values()) == ["P2", "P2"]
    assert found == {
        "a/one_portal.nii.gz": "P1",
        "a/one_arterial.nii.gz": "P1",
        "b/two.nii": "two",
        "other": "P3",
    }


def test_numbers_stay_as_they_are_written(archive: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "ids.csv", **{"b/two.nii": "0042", "other": "NA"})
    found = patients(archive, table)
    assert (found["b/two.nii"], found["other"]) == ("0042", "NA")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"nowhere.nii": "P"}, "row 1: no series or file of the archive"),
        ({"b/two.nii": "P", "two.nii": "Q"}, "rows 1 and 2 name one series"),
        ({"1.9": "P", "other": "P"}, "rows 1 and 2 name one series"),
        ({"b/two.nii": ""}, "row 1: patient_id is empty"),
        ({"": "P"}, "row 1: series is empty"),
        (
            {"other": "P" * 1025},
            "row 1: expected a patient_id of at most 1024 characters, got 1,025",
        ),
        ({}, "no rows"),
        ({"same.nii.gz": "P"}, "row 1: files in several folders have this name"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(
    archive: Path, tmp_path: Path, rows: dict[str, str], message: str
) -> None:
    touch(archive / "c" / "same.nii.gz", archive / "d" / "same.nii.gz")
    table = write_table(tmp_path / "ids.csv", **rows)
    with pytest.raises(InputError, match=message) as raised:
        patients(archive, table)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "series\nx\n", ""])
def test_a_table_without_its_columns_is_one_line(archive: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "ids.csv").write_text(text)
    with pytest.raises(InputError, match="expected"):
        patients(archive, tmp_path / "ids.csv")
    with pytest.raises(InputError, match="cannot be read"):
        patients(archive, tmp_path / "missing.csv")


def test_the_command_ends_with_code_2(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.nii.gz")
    table = write_table(tmp_path / "ids.csv", **{"b.nii.gz": "P"})
    words = ["preprocess", tmp_path / "in", "--root", tmp_path / "root", "--ids", table]
    done = subprocess.run(
        [sys.executable, "-m", "flows.command", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"voco preprocess: error: ids {table}: row 1")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "root").exists()


def test_both_phases_of_a_patient_stay_on_one_side_of_a_split(tmp_path: Path) -> None:
    specs = tmp_path / "specs.json"
    specs.write_text(f"[{SMALL.canonical_json()}]")
    names: dict[str, str] = {}
    for k in range(6):
        for phase in ("arterial", "portal"):
            path = tmp_path / "in" / f"{k}_{phase}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            hu = body((12, 30, 30), seed=len(names))
            nibabel.save(
                nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-4.0, -4, 8, 1])), path
            )
            names[path.name] = f"patient {k}"
    write_slices(tmp_path / "in" / "dicom", body(), tags={"PatientID": "patient 0"})
    options: dict[str, Any] = {"workers": 1, "spec_file": specs}
    table = write_table(tmp_path / "ids.csv", **names)
    summary = preprocess(tmp_path / "in", tmp_path / "root", ids=table, **options)
    ledger = pd.read_parquet(summary.ledger).query("kind == 'series'")
    assert ledger["status"].tolist() == ["stored"] * 13
    by_patient = ledger.groupby("patient_id").size()
    assert sorted(by_patient) == [2, 2, 2, 2, 2, 3], "the DICOM series has a patient of the table"
    pseudonym = pseudonyms.load_or_make(LocalStorage(tmp_path / "root"))
    assert set(by_patient.index) == {pseudonym("patient", f"patient {k}") for k in range(6)}
    split = Split(n_folds=2).add(by_patient.index)
    sides = [set(split.test), *map(set, split.folds)]
    for _, rows in ledger.groupby("patient_id"):
        assert sum(bool(set(rows["patient_id"]) & side) for side in sides) == 1
