"""`voco predict` from the command line: a run folder and scans to results, and the exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows.command import main
from tests.support.ct_files import body, write_slices
from tests.support.hostile_headers import WORDS, stderr_of, write_hostile_archive
from tests.support.small_finetune import RECIPE, grades_of, write_labels
from voco_data.deidentification import pseudonyms
from voco_data.ingest import preprocess
from voco_data.nifti.writer import write_nifti
from voco_data.storage.local import LocalStorage
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_models.evaluation.predictions import read_predictions
from voco_models.stages.finetuning import finetune

SPEC = StoreSpec("small", (4, 32, 32))
PATIENTS = [f"person {index}" for index in range(12)]
RAW = [
    f"raw_{organ}_{grade}"
    for organ in ("kidney", "liver", "spleen")
    for grade in ("healthy", "low", "high")
]

Command = Callable[..., tuple[int, dict[str, Any], str]]


def write_patient(folder: Path, patient: str, seed: int, n_slices: int = 24) -> None:
    uid = f"1.2.826.0.1.{seed + 1}"
    tags = {
        "PatientID": patient,
        "StudyInstanceUID": f"1.2.3.{seed}",
        "SeriesInstanceUID": uid,
        "SOPInstanceUID": lambda index: f"{uid}.{index + 1}",
    }
    write_slices(folder, body((n_slices, 60, 60), seed=seed) + 2 * seed, tags=tags)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An archive of twelve patients, and the folder of a run that was trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    archive, root, run = folder / "archive", folder / "root", folder / "run"
    for seed, patient in enumerate(PATIENTS):
        write_patient(archive / str(seed), patient, seed)
    root.mkdir()
    spec_file = root / "spec.json"
    spec_file.write_text(SPEC.canonical_json())
    store = preprocess(archive, root, spec_file=spec_file, keep_ids=True).stores["small"]
    labels = write_labels(folder / "train.csv", PATIENTS, grades_of(len(PATIENTS)))
    finetune(store, labels, run, recipe=RECIPE, device="cpu")
    shutil.rmtree(root)  # the run folder must do
    return archive, run


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: str | Path) -> tuple[int, dict[str, Any], str]:
        code = main(["predict", *map(str, words), "--workers", "1", "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out.splitlines()[-1]) if printed.out else {}, printed.err

    return call


@pytest.mark.parametrize("exists", [False, True])
def test_a_source_that_cannot_be_read_leaves_nothing(
    trained: tuple[Path, Path], tmp_path: Path, command: Command, exists: bool
) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    if exists:
        out.mkdir()
    for source in ("empty", "nowhere"):
        code, _, message = command(trained[1], tmp_path / source, "--out", out)
        assert code == 2
        assert len(message.splitlines()) == 1
        assert out.exists() == exists
        assert not exists or list(out.iterdir()) == []


def test_the_scans_of_the_run_give_its_own_predictions(
    trained: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    archive, run = trained
    code, summary, _ = command(run, archive, "--out", tmp_path / "out", "--sr", "--keep-ids")
    assert code == 0
    assert (summary["patients"], summary["predicted_patients"]) == (12, 12)
    assert summary["structured_reports"]["reports"] == 12
    table = pd.read_parquet(summary["table"])
    ours = table[table["level"] == "patient"].set_index("patient_id")
    theirs = read_predictions(run / "predictions.parquet")
    theirs = theirs[(theirs["level"] == "patient") & (theirs["split"] == "test")]
    theirs = theirs.set_index("patient_id")
    assert 0 < len(theirs) < 12
    columns = [name.replace("raw_", "p_", 1) for name in RAW]
    np.testing.assert_allclose(ours.loc[theirs.index, RAW], theirs[columns], atol=1e-6)


def test_a_run_of_given_boxes_needs_boxes_of_the_new_series(
    trained: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    archive, _ = trained
    (tmp_path / "spec.json").write_text(SPEC.canonical_json())
    given: dict[str, Any] = {"spec_file": tmp_path / "spec.json", "keep_ids": True}
    found = Store.open(preprocess(archive, tmp_path / "a", **given).stores["small"]).catalogue
    boxes = pd.DataFrame({"series_uid": found["series_uid"], "made_by": "atlas:1"})
    quarter = (found["box_z_high_mm"] - found["box_z_low_mm"]) / 4
    boxes["z_low_mm"] = found["box_z_low_mm"] + quarter
    boxes["z_high_mm"] = found["box_z_high_mm"] - quarter
    boxes.to_csv(tmp_path / "boxes.csv", index=False)
    given["boxes"] = tmp_path / "boxes.csv"
    store = preprocess(archive, tmp_path / "b", **given).stores["small"]
    labels = write_labels(tmp_path / "train.csv", PATIENTS, grades_of(len(PATIENTS)))
    run, out = tmp_path / "run", tmp_path / "out"
    finetune(store, labels, run, recipe=RECIPE, device="cpu")

    code, _, message = command(run, archive, "--out", out, "--keep-ids")
    assert code == 2
    [line] = message.splitlines()
    assert "12 of the 12 series that it learnt from had boxes of a table (given:atlas:1)" in line
    assert not out.exists()
    code, summary, _ = command(
        run, archive, "--out", out, "--keep-ids", "--boxes", tmp_path / "boxes.csv"
    )
    assert code == 0
    table = pd.read_parquet(summary["table"])
    ours = table[table["level"] == "patient"].set_index("patient_id")
    theirs = read_predictions(run / "predictions.parquet")
    theirs = theirs[(theirs["level"] == "patient") & (theirs["split"] == "test")]
    columns = [name.replace("raw_", "p_", 1) for name in RAW]
    expected = theirs.set_index("patient_id")[columns]
    np.testing.assert_allclose(ours.loc[expected.index, RAW], expected, atol=1e-6)


def test_a_rerun_takes_the_series_from_the_store_and_pseudonyms_can_be_joined(
    trained: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    _, run = trained
    scans, out = tmp_path / "scans", tmp_path / "out"
    write_patient(scans / "a", "Jane Roe", 20)
    write_patient(scans / "b", "John Roe", 21, n_slices=3)
    code, first, said = command(run, scans, "--out", out)
    assert code == 0
    assert (first["preprocess"]["stored"], first["refused"]) == (1, 1)
    assert "1 refused" in said
    code, again, _ = command(run, scans, "--out", out)
    assert (again["preprocess"]["stored"], again["preprocess"]["cached"]) == (0, 1)
    table = pd.read_parquet(again["table"])
    by_patient = table[table["level"] == "patient"].set_index("patient_id")
    original = {
        pseudonym: original
        for kind, pseudonym, original in pseudonyms.read_map(LocalStorage(out / "stores"))
        if kind == "patient"
    }
    found = {original[str(patient)]: line for patient, line in by_patient.iterrows()}
    assert set(found) == {"Jane Roe", "John Roe"}
    assert found["Jane Roe"]["status"] == "predicted"
    assert (found["John Roe"]["status"], found["John Roe"]["reason"]) == (
        "refused",
        "too_few_slices",
    )
    submission = pd.read_csv(again["submission"])
    assert sorted(submission["patient_id"]) == sorted(original)
    pages = "".join(path.read_text() for path in out.rglob("*.html"))
    assert "Roe" not in pages


def test_nothing_usable_is_a_warning_and_exit_code_0(
    trained: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    write_patient(tmp_path / "scans", "Jane Roe", 20, n_slices=3)
    code, summary, said = command(trained[1], tmp_path / "scans", "--out", tmp_path / "out")
    assert code == 0
    assert (summary["patients"], summary["predicted_patients"]) == (1, 0)
    assert "warning: no series could be predicted" in said


def test_nifti_is_predicted_without_a_structured_report(
    trained: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    (tmp_path / "scans").mkdir()
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    write_nifti(tmp_path / "scans" / "scan.nii.gz", body(), affine, "made up")
    code, summary, said = command(trained[1], tmp_path / "scans", "--out", tmp_path / "out", "--sr")
    assert code == 0
    assert summary["predicted_patients"] == 1
    assert summary["structured_reports"]["reports"] == 0
    assert "no structured report: it needs DICOM" in said


@pytest.mark.slow
def test_headers_of_new_patients_are_not_quoted(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Nor by what writes the structured reports, which name the patients."""
    write_hostile_archive(tmp_path / "archive")
    printed = stderr_of(
        "predict", trained[1], tmp_path / "archive", "--out", tmp_path / "out", "--sr"
    )
    assert list((tmp_path / "out" / "sr").glob("*.dcm"))
    assert not [word for word in WORDS if word in printed]


@pytest.mark.parametrize("case", ["no run", "unfinished", "foreign out", "no source"])
def test_bad_input_is_one_line_and_exit_code_2(
    trained: tuple[Path, Path], tmp_path: Path, command: Command, case: str
) -> None:
    archive, run = trained
    out = tmp_path / "out"
    if case == "no run":
        run = tmp_path
    elif case == "unfinished":
        run = Path(shutil.copytree(run, tmp_path / "run"))
        description = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(description | {"finished": False}))
    elif case == "foreign out":
        out.mkdir()
        (out / "thesis.txt").write_text("1")
    else:
        archive = tmp_path / "missing"
    code, summary, said = command(run, archive, "--out", out)
    assert code == 2
    assert summary == {}
    (line,) = [line for line in said.splitlines() if line.startswith("voco predict: error: ")]
    assert said.endswith(f"{line}\n")
    if case == "foreign out":
        assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_sr_without_highdicom_is_told_before_anything_is_written(
    trained: tuple[Path, Path], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, run = trained
    monkeypatch.setattr("voco_data.structured_report.writing.find_spec", lambda name: None)
    code, _, said = command(run, archive, "--out", tmp_path / "out", "--sr")
    assert code == 2
    assert "pip install 'voco[sr]'" in said
    assert not (tmp_path / "out").exists()
