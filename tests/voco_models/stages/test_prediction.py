"""Prediction from a run folder alone: the results of the run itself, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.small_finetune import RECIPE, small_cohort
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.qc import ledger
from voco_data.selection.series import Selection
from voco_data.storage.local import LocalStorage
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_data.store.spec import ALGORITHM_VERSION, StoreSpec, read_spec_file
from voco_models.data.volume_view import VolumeView
from voco_models.evaluation.predictions import probability_columns, read_predictions
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES, FinetuneRecipe
from voco_models.stages.finetuning import finetune
from voco_models.stages.finished_run import read_finished_run
from voco_models.stages.prediction import PredictSummary, predict, prepare_prediction
from voco_models.training import checkpoint

ORGANS_RECIPE: FinetuneRecipe = dataclasses.replace(
    FINETUNE_RECIPES["tiny"],
    name="small organs",
    view=VolumeView(slices=4, size_px=32, reduce="average", z_range=(0.0, 1.0)),
    epochs=1,
    batch_size=2,
    hidden=4,
    attention_weight=0.0,
    n_folds=2,
)
"""The head of the recipe `tiny`, which needs depths and has attention."""


@dataclasses.dataclass(frozen=True)
class Case:
    store: Store
    run: Path
    out: Path
    summary: PredictSummary

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_parquet(self.summary.table)


@pytest.fixture(scope="module", params=[RECIPE, ORGANS_RECIPE], ids=["bilstm", "organ_queries"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("case"), request.param)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("small"), RECIPE)


def make_case(folder: Path, recipe: FinetuneRecipe) -> Case:
    store, labels = small_cohort(folder)
    run, out = folder / "run", folder / "out"
    finetune(store, labels, run, recipe=recipe, device="cpu")
    moved = folder / "elsewhere"  # on another machine there is the run folder only
    shutil.copytree(run, moved)
    prepare_prediction(moved, out)
    return Case(store, moved, out, predict(moved, store, out, device="cpu"))


def test_results_are_those_of_the_run(case: Case) -> None:
    expected = read_predictions(case.run / "predictions.parquet")
    for level, key in (("series", "series_uid"), ("patient", "patient_id")):
        theirs = expected[(expected["level"] == level) & (expected["split"] == "test")]
        theirs = theirs.set_index(key)
        assert len(theirs) == 3
        ours = case.table[case.table["level"] == level].set_index(key).loc[theirs.index]
        columns = probability_columns()
        raw = ours[[name.replace("p_", "raw_", 1) for name in columns]]
        np.testing.assert_allclose(raw, theirs[columns], atol=1e-6)


def test_calibration_and_classes_are_those_of_the_decision(case: Case) -> None:
    decision = json.loads((case.run / "decision.json").read_text())
    line = case.table[case.table["level"] == "patient"].iloc[0]
    classes = ["healthy", "low", "high"]
    a, *biases = decision["calibration"]["liver"]
    raw = np.array([line[f"raw_liver_{name}"] for name in classes])
    scores = np.exp(a * np.log(raw) + biases)
    expected = scores / scores.sum()
    found = [line[f"calibrated_liver_{name}"] for name in classes]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    best = int(np.argmax(expected / decision["thresholds"]["liver"]))
    assert line["predicted_liver"] == classes[best]


def test_submission_has_the_priors_of_the_training_labels(case: Case) -> None:
    labels = pd.read_parquet(case.run / "labels.parquet")
    table = read_predictions(case.run / "predictions.parquet")
    test = set(table.loc[table["split"] == "test", "patient_id"])
    injured = labels.loc[~labels["patient_id"].isin(test), "bowel"]
    submission = pd.read_csv(case.summary.submission)
    assert len(submission) == 14
    np.testing.assert_allclose(submission["bowel_injury"], injured.mean())
    np.testing.assert_allclose(submission["bowel_healthy"], 1 - injured.mean())


def test_every_patient_has_a_page(case: Case) -> None:
    pages = sorted(path.stem for path in (case.out / "patients").iterdir())
    assert pages == sorted(case.store.catalogue["patient_id"])
    text = (case.out / "patients" / f"{pages[0]}.html").read_text()
    recipe = checkpoint.read_run(case.run)["recipe"]
    assert ("Attention to slices" in text) == (recipe.get("head") == "organ_queries")
    assert "Not a medical device. For research only." in text
    assert all(f"patients/{page}.html" in (case.out / "index.html").read_text() for page in pages)


def test_the_spec_file_gives_the_spec_of_the_store(small: Case) -> None:
    assert read_spec_file(small.out / "spec.json") == [small.store.spec]


def row(uid: str, status: str, patient: str = "", **changes: str) -> ledger.LedgerRow:
    name = uid.removeprefix("series-")
    return ledger.LedgerRow(
        kind="series",
        source=name,
        series_uid=uid,
        patient_id=patient or f"patient-{name}",
        study_uid=f"study-{name}",
        status=status,  # type: ignore[arg-type]
        **changes,  # type: ignore[arg-type]
    )


def test_a_ledger_says_what_is_predicted_and_what_was_refused(
    small: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        row("series-003", "cached"),
        row("series-004", "stored"),
        row("series-900", "refused", "patient-003", reason="missing_slices", detail="<b>a gap</b>"),
        row("series-901", "refused", reason="too_few_slices", detail="2 slices"),
        row("series-902", "skipped", reason="localizer"),
    ]
    ledger.write(LocalStorage(tmp_path), rows)
    out = tmp_path / "out"
    prepare_prediction(small.run, out)
    with caplog.at_level(logging.WARNING):
        summary = predict(small.run, small.store, out, ledger=tmp_path / ledger.KEY, device="cpu")
    assert (summary.patients, summary.predicted_patients) == (3, 2)
    assert (summary.series, summary.refused) == (2, 2)
    assert "2 refused" in caplog.text
    table = pd.read_parquet(summary.table)
    patients = table[table["level"] == "patient"].set_index("patient_id")
    assert patients["status"].to_dict() == {
        "patient-003": "predicted",
        "patient-004": "predicted",
        "patient-901": "refused",
    }
    page = (out / "patients" / "patient-003.html").read_text()
    assert "missing_slices" in page
    assert "&lt;b&gt;a gap&lt;/b&gt;" in page
    assert "too_few_slices" in (out / "patients" / "patient-901.html").read_text()
    alone = small.table[small.table["series_uid"] == "series-003"].iloc[0]
    again = table[table["series_uid"] == "series-003"].iloc[0]
    assert again["raw_liver_low"] == pytest.approx(alone["raw_liver_low"], abs=1e-6)


def test_series_with_flags_that_the_run_leaves_out_are_refused(tmp_path: Path) -> None:
    """A run that was trained without flagged series; patient 3 has nothing else."""

    def flag(record: Record) -> Record:
        flags = ("kept_unusual",) if record.row == 3 else ("other",) if record.row == 4 else ()
        return dataclasses.replace(record, flags=flags)

    store, labels = small_cohort(tmp_path, change=flag)
    recipe = dataclasses.replace(RECIPE, selection=Selection(without_flags=("kept_unusual",)))
    run, out = tmp_path / "run", tmp_path / "out"
    finetune(store, labels, run, recipe=recipe, device="cpu", allow_unlabelled=True)
    prepare_prediction(run, out)
    summary = predict(run, store, out, device="cpu")
    assert (summary.patients, summary.predicted_patients, summary.refused) == (14, 13, 1)
    table = pd.read_parquet(summary.table)
    (line,) = table[(table["level"] == "series") & (table["status"] == "refused")].to_dict(
        "records"
    )
    assert (line["patient_id"], line["reason"]) == ("patient-003", "flagged")
    assert line["detail"] == "the selection of the run leaves out kept_unusual"
    assert "kept_unusual" in (out / "patients" / "patient-003.html").read_text()


def test_nothing_usable_is_a_warning(
    small: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.write(LocalStorage(tmp_path), [row("series-901", "refused", reason="not_hu")])
    out = tmp_path / "out"
    prepare_prediction(small.run, out)
    with caplog.at_level(logging.WARNING):
        summary = predict(small.run, small.store, out, ledger=tmp_path / ledger.KEY, device="cpu")
    assert (summary.patients, summary.predicted_patients, summary.series) == (1, 0, 0)
    assert "no series could be predicted" in caplog.text
    assert "not_hu" in (out / "index.html").read_text()
    assert len(pd.read_csv(summary.submission)) == 1


def test_a_rerun_removes_the_pages_of_patients_who_left(small: Case, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for uids in (("series-003", "series-004"), ("series-003",)):
        ledger.write(LocalStorage(tmp_path), [row(uid, "cached") for uid in uids])
        prepare_prediction(small.run, out)
        predict(small.run, small.store, out, ledger=tmp_path / ledger.KEY, device="cpu")
    assert [path.name for path in (out / "patients").iterdir()] == ["patient-003.html"]


# --- what is refused ---------------------------------------------------------------------------


def copied(case: Case, tmp_path: Path) -> Path:
    return Path(shutil.copytree(case.run, tmp_path / "run"))


def describe(run: Path, **changes: object) -> None:
    checkpoint.write_run(run, checkpoint.read_run(run) | changes)


def refused(run: Path, tmp_path: Path, match: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=match) as error:
        prepare_prediction(run, out)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_an_unfinished_run_and_other_runs(small: Case, tmp_path: Path) -> None:
    run = copied(small, tmp_path)
    describe(run, finished=False)
    refused(run, tmp_path, "expected a finished fine-tuning run")
    describe(run, finished=True, stage="pretrain")
    refused(run, tmp_path, "expected a finished fine-tuning run")
    refused(tmp_path, tmp_path, "expected the folder of a voco run")


@pytest.mark.parametrize(
    "name", ["fold-1/checkpoint.pt", "decision.json", "predictions.parquet", "labels.parquet"]
)
def test_a_missing_file_is_named(small: Case, tmp_path: Path, name: str) -> None:
    run = copied(small, tmp_path)
    (run / name).unlink()
    refused(run, tmp_path, name)


def test_a_run_that_does_not_record_its_spec(small: Case, tmp_path: Path) -> None:
    run = copied(small, tmp_path)
    describe(run, specs={})
    refused(run, tmp_path, "an older version made the run; fine-tune again")


def test_a_run_of_other_pixels(small: Case, tmp_path: Path) -> None:
    run = copied(small, tmp_path)
    older = replace(small.store.spec, algorithm_version=ALGORITHM_VERSION - 1)
    describe(run, specs={older.digest: dataclasses.asdict(older)})
    refused(run, tmp_path, f"algorithm version {ALGORITHM_VERSION - 1}")


def test_a_recipe_of_another_version(small: Case, tmp_path: Path) -> None:
    run = copied(small, tmp_path)
    recipe = checkpoint.read_run(run)["recipe"]
    describe(run, recipe=recipe | {"option_of_later": 1})
    refused(run, tmp_path, "its recipe cannot be read .*option_of_later")


def test_weights_of_another_network(small: Case, tmp_path: Path) -> None:
    run = copied(small, tmp_path)
    describe(run, recipe=checkpoint.read_run(run)["recipe"] | {"hidden": 8})
    prepare_prediction(run, tmp_path / "out")
    with pytest.raises(InputError, match=r"fold-0/checkpoint.pt: its weights do not fit"):
        predict(run, small.store, tmp_path / "out", device="cpu")


def test_a_store_of_another_spec(small: Case, tmp_path: Path) -> None:
    other = make_store(tmp_path, random_volumes(2, (4, 32, 32)), profile="other")
    prepare_prediction(small.run, tmp_path / "out")
    with pytest.raises(InputError, match="expected a store of the run's spec small-"):
        predict(small.run, other, tmp_path / "out", device="cpu")


def test_a_folder_with_something_else(small: Case, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    prepare_prediction(small.run, out)  # an empty folder is fine, and so is a rerun
    prepare_prediction(small.run, out)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("1")
    with pytest.raises(InputError, match="holds something else than predictions"):
        prepare_prediction(small.run, tmp_path / "thesis")
    with pytest.raises(InputError, match="expected a folder as --out, got a file"):
        prepare_prediction(small.run, tmp_path / "thesis" / "chapter.txt")
    run = copied(small, tmp_path)
    saved = torch.load(run / "fold-0" / "checkpoint.pt", weights_only=True)
    saved["step"] += 1
    torch.save(saved, run / "fold-0" / "checkpoint.pt")
    with pytest.raises(InputError, match="holds predictions of another run"):
        prepare_prediction(run, out)


def test_labels_without_bowel_leave_its_columns_empty(tmp_path: Path) -> None:
    store, labels = small_cohort(tmp_path, binary=False)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    finetune(store, labels, tmp_path / "run", recipe=recipe, device="cpu")
    out = tmp_path / "out"
    prepare_prediction(tmp_path / "run", out)
    summary = predict(tmp_path / "run", store, out, device="cpu")
    submission = pd.read_csv(summary.submission)
    assert submission["bowel_injury"].isna().all()
    assert submission["liver_low"].notna().all()
    assert "bowel and extravasation are empty" in (out / "index.html").read_text()


def test_the_average_of_the_weights_predicts_where_a_run_keeps_one(
    small: Case, tmp_path: Path
) -> None:
    run = copied(small, tmp_path)
    path = run / "fold-0" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    state = {name: t for name, t in saved["objective"].items() if name.startswith("classifier.")}
    for name, tensor in state.items():
        saved["objective"][name.replace("classifier.", "average.", 1)] = torch.zeros_like(tensor)
    torch.save(saved, path)
    weights = read_finished_run(run).load_classifier(0).state_dict()
    assert not any(bool(tensor.any()) for tensor in weights.values())


def test_the_spec_survives_json(small: Case) -> None:
    text = (small.run / "run.json").read_text()
    (values,) = json.loads(text)["specs"].values()
    assert StoreSpec.from_mapping(values) == small.store.spec
