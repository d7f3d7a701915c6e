"""Fine-tuning: what is written, what resumes, what is refused before anything is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.small_finetune import (
    GRID,
    PATIENTS,
    RECIPE,
    grades_of,
    small_cohort,
    write_labels,
)
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.labels.targets import ORGAN_TARGETS
from voco_data.selection.split import Split
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_data.withdrawal.taint import is_tainted, mark_tainted
from voco_models.data.volume_view import VolumeView
from voco_models.evaluation import looks
from voco_models.evaluation.predictions import (
    probability_columns,
    read_predictions,
    table_columns,
    truth_columns,
)
from voco_models.networks.registry import create_backbone
from voco_models.stages.finetune_plan import make_plan
from voco_models.stages.finetuning import FinetuneSummary, _build_objective, finetune
from voco_models.training import checkpoint
from voco_models.training.history import read_history
from voco_models.training.train_state import TrainState

ORGANS = ORGAN_TARGETS.names


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return small_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def whole(
    cohort: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, FinetuneSummary]:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, finetune(*cohort, out, recipe=RECIPE, device="cpu")


def test_summary_counts(whole: tuple[Path, FinetuneSummary]) -> None:
    out, summary = whole
    assert summary.finished
    assert (summary.patients, summary.series, summary.test_patients) == (14, 14, 3)
    # 11 patients in 2 folds: models train on 5 and 6 series, 2 a step, 2 epochs.
    assert summary.steps == summary.total_steps == 2 * 2 + 2 * 3
    assert json.loads(json.dumps(summary.to_json()))["run"] == str(out)


def test_every_patient_is_predicted_once(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary]
) -> None:
    out, _ = whole
    table = read_predictions(out / "predictions.parquet")
    assert list(table.columns) == table_columns()
    split = Split.from_json((out / "split.json").read_text())
    patients = table[table["level"] == "patient"].set_index("patient_id")
    assert sorted(patients.index) == sorted(cohort[0].catalogue["patient_id"])
    for fold, validation in enumerate(split.folds):
        assert (patients.loc[list(validation), "split"] == "oof").all()
        assert (patients.loc[list(validation), "fold"] == fold).all()
    assert (patients.loc[list(split.test), "split"] == "test").all()
    sums = table[probability_columns()].to_numpy().reshape(-1, 3, 3).sum(axis=2)
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_test_predictions_are_the_mean_of_the_folds(whole: tuple[Path, FinetuneSummary]) -> None:
    out, _ = whole
    folds = [
        table[table["split"] == "test"].set_index("series_uid")[probability_columns()]
        for table in (read_predictions(out / f"fold-{i}" / "predictions.parquet") for i in (0, 1))
    ]
    table = read_predictions(out / "predictions.parquet")
    chosen = table[(table["level"] == "series") & (table["split"] == "test")]
    mean = chosen.set_index("series_uid").loc[folds[0].index, probability_columns()]
    np.testing.assert_allclose(mean, (folds[0] + folds[1]) / 2)
    assert np.abs(folds[0] - folds[1]).to_numpy().max() > 1e-6


def test_truths_are_those_of_the_table(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary]
) -> None:
    source = pd.read_csv(cohort[1]).set_index("patient_id")
    table = read_predictions(whole[0] / "predictions.parquet")
    for organ, column in zip(ORGANS, truth_columns(), strict=True):
        one_hot = source.loc[table["patient_id"], [f"{organ}_{g}" for g in ("low", "high")]]
        np.testing.assert_array_equal(table[column], one_hot.to_numpy() @ [1, 2])


def test_run_says_what_it_is(whole: tuple[Path, FinetuneSummary]) -> None:
    out, _ = whole
    run = checkpoint.read_run(out)
    split = Split.from_json((out / "split.json").read_text())
    assert run["stage"] == "finetune"
    assert run["finished"] is True
    assert run["split"] == split.digest
    assert run["recipe"]["backbone"] == RECIPE.backbone
    assert len(run["labels_sha256"]) == 64
    labels = pd.read_parquet(out / "labels.parquet")
    assert len(labels) == PATIENTS
    assert not labels["patient_id"].str.startswith("elsewhere").any()


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_stopped_run_ends_as_if_never_stopped(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary], tmp_path: Path, stop: int
) -> None:
    out = tmp_path / "run"
    stopped = finetune(*cohort, out, recipe=RECIPE, device="cpu", max_steps=stop)
    assert not stopped.finished
    assert stopped.steps == stop
    assert not (out / "predictions.parquet").exists()
    resumed = finetune(*cohort, out, recipe=RECIPE, device="cpu", resume=True)
    assert resumed.finished
    pd.testing.assert_frame_equal(
        read_predictions(out / "predictions.parquet"),
        read_predictions(whole[0] / "predictions.parquet"),
        check_exact=True,
    )
    for fold in ("fold-0", "fold-1"):
        left, right = (pd.read_csv(run / fold / "history.csv") for run in (out, whole[0]))
        pd.testing.assert_frame_equal(left.drop(columns="seconds"), right.drop(columns="seconds"))


def test_monitors_observe_every_fold_and_change_nothing(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary], tmp_path: Path
) -> None:
    steps = []

    class StepMonitor:
        every = 2

        def observe(self, state: TrainState) -> None:
            steps.append(state.step)
            torch.rand(1)

    finetune(*cohort, tmp_path / "run", recipe=RECIPE, device="cpu", monitors=[StepMonitor()])
    assert steps.count(2) == RECIPE.n_folds
    one, other = (
        read_predictions(run / "predictions.parquet") for run in (whole[0], tmp_path / "run")
    )
    pd.testing.assert_frame_equal(one, other)


def test_volumes_in_memory_give_the_same_predictions(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary], tmp_path: Path
) -> None:
    finetune(*cohort, tmp_path / "run", recipe=RECIPE, device="cpu", resident="ram")
    one, other = (
        read_predictions(run / "predictions.parquet") for run in (whole[0], tmp_path / "run")
    )
    pd.testing.assert_frame_equal(one, other)


def test_resuming_a_finished_run_trains_nothing(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary]
) -> None:
    out, before = whole
    # What an evaluation has seen may not change, and another library could write other bytes.
    names = [*looks.FROZEN, "run.json", "fold-0/checkpoint.pt", "fold-1/checkpoint.pt"]
    times = [(out / name).stat().st_mtime_ns for name in names]
    again = finetune(*cohort, out, recipe=RECIPE, device="cpu", resume=True)
    assert again.finished
    assert again.steps == before.steps
    assert [(out / name).stat().st_mtime_ns for name in names] == times
    decision = (out / "decision.json").read_text()
    (out / "decision.json").unlink()
    finetune(*cohort, out, recipe=RECIPE, device="cpu", resume=True)
    assert (out / "decision.json").read_text() == decision


def test_another_seed_is_another_split_and_model(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, seed=1, epochs=1)
    finetune(*cohort, tmp_path / "run", recipe=recipe, device="cpu")
    splits = [(run / "split.json").read_text() for run in (tmp_path / "run", whole[0])]
    assert splits[0] != splits[1]


def test_series_of_a_patient_stay_together(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(20, GRID))
    # Patient 000 has the series of 001, 002 has those of 003, ...
    store.catalogue["patient_id"] = store.catalogue["patient_id"].map(
        lambda patient: f"{patient[:-3]}{int(patient[-3:]) // 2 * 2:03d}"
    )
    ids = sorted(set(store.catalogue["patient_id"]))
    labels = write_labels(tmp_path / "train.csv", ids, grades_of(10))
    plan = make_plan(store, labels, RECIPE, init="scratch")
    parts = [plan.split.test, *plan.split.folds]
    found = [plan.series.select(part) for part in parts]
    assert [len(series) for series in found] == [2 * len(part) for part in parts]
    rows = [row for series in found for row in series.rows]
    assert sorted(rows) == list(range(20))
    for classes in plan.classes_of(plan.series).values():
        assert torch.equal(classes[0], classes[1])


def test_class_weights_are_of_the_loss_and_not_of_the_score(cohort: tuple[Store, Path]) -> None:
    recipe = dataclasses.replace(RECIPE, class_weights=(1.0, 3.0, 9.0))
    plan = make_plan(*cohort, recipe, init="scratch")
    weights = _build_objective(plan, 0, plan.series).get_buffer("weights")
    ratios = weights / weights[:, :1]
    torch.testing.assert_close(ratios, torch.tensor([[1.0, 3.0, 9.0]]).expand(3, 3))
    assert plan.targets == ORGAN_TARGETS  # what calibration and scores are weighted with


def test_patients_with_the_same_volume_stay_together(cohort: tuple[Store, Path]) -> None:
    store, labels = cohort
    table = store.catalogue.sort_values("patient_id", ignore_index=True)
    pairs = [(table["patient_id"][i], table["patient_id"][i + 7]) for i in range(3)]
    digests = table["content_digest"].tolist()
    for i in range(3):
        digests[i + 7] = digests[i]
    linked = Store.open(store.path)
    linked.catalogue = table.assign(content_digest=digests)
    for seed in range(5):
        recipe = dataclasses.replace(RECIPE, seed=seed)
        split = make_plan(linked, labels, recipe, init="scratch").split
        parts = [set(part) for part in (split.test, *split.folds)]
        assert all(any({a, b} <= part for part in parts) for a, b in pairs)


def test_pseudonyms_join_and_stay_in_the_run(cohort: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = cohort
    raw = [patient.removeprefix("patient-") for patient in sorted(store.catalogue["patient_id"])]
    labels = write_labels(tmp_path / "train.csv", raw, grades_of(PATIENTS))
    with pytest.raises(InputError, match="none of the store's"):
        finetune(store, labels, tmp_path / "run", recipe=RECIPE, device="cpu")
    plan = make_plan(
        store, labels, RECIPE, init="scratch", pseudonymise=lambda patient: f"patient-{patient}"
    )
    assert list(plan.labels.patient_ids) == sorted(store.catalogue["patient_id"])


def pretrained(folder: Path, name: str = RECIPE.backbone) -> Path:
    torch.manual_seed(5)
    folder.mkdir()
    provenance = {"stores": [{"name": "pretrain-0.zarr", "volumes": 3}]}
    checkpoint.save_backbone(folder, create_backbone(name), provenance)
    return folder


def test_init_from_a_run_starts_from_its_weights(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary], tmp_path: Path
) -> None:
    run = pretrained(tmp_path / "pretrain")
    plan = make_plan(*cohort, RECIPE, init=run)
    expected, _ = checkpoint.load_backbone(run)
    assert plan.initial.weights is not None
    for name, value in expected.state_dict().items():
        assert torch.equal(plan.initial.weights[name], value)
    recipe = dataclasses.replace(RECIPE, lr=1e-12, weight_decay=0.0, epochs=1)
    out = tmp_path / "run"
    mark_tainted(run, "0123", "2026-03-01T03:00:00Z")
    finetune(*cohort, out, recipe=recipe, device="cpu", init=run, max_steps=1)
    assert is_tainted(out)
    saved = checkpoint.load(out / "fold-0" / "checkpoint.pt")["objective"]
    prefix = "classifier.features.backbone."
    key = next(k for k in saved if k.startswith(prefix) and k.endswith("weight"))
    start = expected.state_dict()[key.removeprefix(prefix)]
    torch.testing.assert_close(saved[key], start, rtol=0, atol=1e-9)


# What is refused: one line, and nothing written


def refused(match: str, *args: object, **options: object) -> None:
    out = Path(str(args[2]))
    before = sorted(out.parent.iterdir())
    with pytest.raises(InputError, match=match) as caught:
        finetune(*args, **{"recipe": RECIPE, "device": "cpu"} | options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert sorted(out.parent.iterdir()) == before


def test_bad_inputs_write_nothing(cohort: tuple[Store, Path], tmp_path: Path) -> None:
    store, labels = cohort
    out = tmp_path / "run"
    other = pretrained(tmp_path / "other", "mobilenetv3_small_050")
    refused("expected a store", tmp_path / "no-store", labels, out)
    refused("labels .*: cannot be read", store, tmp_path / "absent.csv", out)
    refused("expected one of default", store, labels, out, recipe="huge")
    refused("nothing to resume", store, labels, out, resume=True)
    refused("grid.*has fewer", store, labels, out, recipe="default")
    refused("holds mobilenetv3_small_050", store, labels, out, init=other)
    refused(
        "expected scratch, imagenet, a file of weights, or the folder",
        store,
        labels,
        out,
        init="nowhere",
    )
    refused("device", store, labels, out, device="abacus")
    big = dataclasses.replace(RECIPE, batch_size=10)
    refused("fewer than the recipe's batch of 10", store, labels, out, recipe=big)


def test_an_unlabelled_patient_is_refused_unless_allowed(
    cohort: tuple[Store, Path], tmp_path: Path
) -> None:
    store, _ = cohort
    ids = sorted(store.catalogue["patient_id"])[1:]
    labels = write_labels(tmp_path / "train.csv", ids, grades_of(PATIENTS - 1))
    refused("patient-000", store, labels, tmp_path / "run")
    plan = make_plan(store, labels, RECIPE, init="scratch", allow_unlabelled=True)
    assert len(plan.series) == PATIENTS - 1


def test_a_run_is_not_overwritten(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary]
) -> None:
    with pytest.raises(InputError, match="already holds a run"):
        finetune(*cohort, whole[0], recipe=RECIPE, device="cpu")


def test_another_experiment_does_not_resume(
    cohort: tuple[Store, Path], whole: tuple[Path, FinetuneSummary], tmp_path: Path
) -> None:
    store, labels = cohort
    other = dataclasses.replace(RECIPE, lr=0.5)
    with pytest.raises(InputError, match=r"cannot resume: recipe\.lr was"):
        finetune(store, labels, whole[0], recipe=other, device="cpu", resume=True)
    edited = tmp_path / "train.csv"
    edited.write_text(labels.read_text() + "\n")
    with pytest.raises(InputError, match="the label table"):
        finetune(store, edited, whole[0], recipe=RECIPE, device="cpu", resume=True)


def test_a_recipe_chooses_the_head(cohort: tuple[Store, Path], tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, head="gru_attention", epochs=1)
    finetune(*cohort, tmp_path / "run", recipe=recipe, device="cpu")
    saved = checkpoint.load(tmp_path / "run" / "fold-0" / checkpoint.CHECKPOINT)
    assert any("head.gru.weight" in name for name in saved["objective"])
    assert "head" not in RECIPE.to_json()  # as in runs that are older than the choice


def test_an_unknown_head_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(InputError, match=r"head: expected one of bilstm, .*, got 'lstm'"):
        dataclasses.replace(RECIPE, head="lstm")


def with_organs(record: Record) -> Record:
    """A box of 200 mm, and a liver in its upper half."""
    return dataclasses.replace(
        record,
        box_low_mm=(0.0, 0.0, 0.0),
        box_high_mm=(200.0, 100.0, 100.0),
        organs={"liver": ((100.0, 0.0, 0.0), (200.0, 50.0, 50.0))},
    )


def test_organ_queries_train_resume_and_predict(tmp_path: Path) -> None:
    volumes = random_volumes(PATIENTS, GRID)
    store = make_store(tmp_path / "store", volumes, change=with_organs)
    ids = sorted(store.catalogue["patient_id"])
    labels = write_labels(tmp_path / "train.csv", ids, grades_of())
    recipe = dataclasses.replace(
        RECIPE,
        head="organ_queries",
        pooling="stages",
        attention_weight=0.5,
        view=VolumeView(slices=3, size_px=32, reduce="average", z_range=(0.25, 1.0)),
    )
    whole = finetune(store, labels, tmp_path / "whole", recipe=recipe, device="cpu")
    assert whole.finished
    history = read_history(tmp_path / "whole" / "fold-0")
    assert all(row["attention"] > 0 for row in history)
    parts = finetune(store, labels, tmp_path / "parts", recipe=recipe, device="cpu", max_steps=3)
    assert not parts.finished
    finetune(store, labels, tmp_path / "parts", recipe=recipe, device="cpu", resume=True)
    tables = [
        read_predictions(tmp_path / name / "predictions.parquet") for name in ("whole", "parts")
    ]
    pd.testing.assert_frame_equal(*tables)
    saved = checkpoint.load(tmp_path / "whole" / "fold-0" / checkpoint.CHECKPOINT)
    prior = saved["objective"]["classifier.head.prior"]
    assert prior[2].std() > 0.1  # the liver has boxes
    assert prior[3].std() < 1e-5  # the spleen has none


def test_organ_queries_refuse_flips_and_windows_of_the_plane(
    cohort: tuple[Store, Path], tmp_path: Path
) -> None:
    queries = {"head": "organ_queries", "pooling": "stages"}
    with pytest.raises(InputError, match="knows left from right"):
        dataclasses.replace(RECIPE, **queries, flips=((), (3,)))
    with pytest.raises(InputError, match="attention_weight must be"):
        dataclasses.replace(RECIPE, attention_weight=1.0)
    window = VolumeView(slices=4, size_px=24, reduce="subsample")
    recipe = dataclasses.replace(RECIPE, **queries, view=window)
    with pytest.raises(InputError, match="needs whole planes"):
        finetune(*cohort, tmp_path / "run", recipe=recipe, device="cpu")
    assert not (tmp_path / "run").exists()
