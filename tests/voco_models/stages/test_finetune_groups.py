"""Which groups are predicted, and how many labels are used."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.small_finetune import PATIENTS, RECIPE, small_cohort, write_labels
from voco_data.errors import InputError
from voco_data.labels.targets import RSNA_TARGETS
from voco_data.store.reader import Store
from voco_models.evaluation.predictions import read_predictions
from voco_models.stages.comparison import compare_runs
from voco_models.stages.evaluation import evaluate
from voco_models.stages.finetune_plan import make_plan
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.finetuning import _build_objective, finetune


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return small_cohort(tmp_path_factory.mktemp("cohort"))


def changed(**changes: object) -> FinetuneRecipe:
    return dataclasses.replace(RECIPE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["bilstm", "organ_queries"])
def test_all_five_groups(cohort: tuple[Store, Path], tmp_path: Path, head: str) -> None:
    """Columns of every group, with the labels of the table; the loss has the score's weights."""
    pooling = {"bilstm": "quadrants", "organ_queries": "stages"}[head]
    recipe = changed(groups=RSNA_TARGETS.names[::-1], head=head, pooling=pooling)
    assert finetune(*cohort, tmp_path / "run", recipe=recipe, device="cpu").finished
    table = read_predictions(tmp_path / "run/predictions.parquet", RSNA_TARGETS)
    patients = table[table["level"] == "patient"].set_index("patient_id").sort_index()
    assert len(patients) == PATIENTS
    labels = pd.read_csv(cohort[1], dtype={"patient_id": str}).set_index("patient_id")
    for group in RSNA_TARGETS:
        columns = [f"p_{group.name}_{name}" for name in group.classes]
        np.testing.assert_allclose(patients[columns].sum(axis=1), 1, atol=1e-5)
        truth = labels.loc[patients.index, list(group.columns)].to_numpy().argmax(axis=1)
        np.testing.assert_array_equal(patients[f"y_{group.name}"], truth)
    summary = evaluate(tmp_path / "run")
    assert set(summary.organ_gains) == set(RSNA_TARGETS.names)
    results = json.loads(summary.metrics.read_text())
    assert results["constant_groups"] == []
    assert set(results["measures"]["by_group"]) == set(RSNA_TARGETS.names)
    page = summary.report.read_text()
    assert "extravasation" in page.lower()
    plan = make_plan(*cohort, recipe, init="scratch")
    weights = _build_objective(plan, 0, plan.series).get_buffer("weights")
    ratios = (weights / weights[:, :1]).tolist()
    assert ratios[0] == pytest.approx([1, 2, 0])  # bowel, as on the evaluation page of RSNA 2023
    assert ratios[1] == pytest.approx([1, 6, 0])  # extravasation
    assert all(row == pytest.approx([1, 2, 4]) for row in ratios[2:])


def test_one_organ(cohort: tuple[Store, Path], tmp_path: Path) -> None:
    assert finetune(
        *cohort, tmp_path / "run", recipe=changed(groups=("liver",)), device="cpu"
    ).finished
    table = pd.read_parquet(tmp_path / "run/predictions.parquet")
    assert [c for c in table.columns if c.startswith("p_")] == [
        f"p_liver_{name}" for name in ("healthy", "low", "high")
    ]
    summary = evaluate(tmp_path / "run")
    assert set(summary.organ_gains) == {"liver"}
    assert summary.scores["rsna_organ_3"].value > 0  # with the priors of the other organs
    finetune(*cohort, tmp_path / "all", recipe=RECIPE, device="cpu")
    with pytest.raises(InputError, match=r"run predicts liver, and .*all kidney, liver, spleen; "):
        compare_runs(tmp_path / "run", tmp_path / "all")


def test_a_run_without_organs_gains_in_the_official_score(
    cohort: tuple[Store, Path], tmp_path: Path
) -> None:
    """The organs count with their priors in both, so the other score cannot change."""
    finetune(*cohort, tmp_path / "run", recipe=changed(groups=("bowel",)), device="cpu")
    summary = evaluate(tmp_path / "run")
    gains = json.loads(summary.metrics.read_text())["gains"]["training_prior"]
    assert gains["rsna_organ_3"]["value"] == 0
    assert summary.gain.value == gains["rsna_official_6"]["value"] != 0


def test_groups_that_labels_lack(tmp_path: Path) -> None:
    cohort = small_cohort(tmp_path, binary=False)
    recipe = changed(groups=RSNA_TARGETS.names)
    match = r"train.csv: recipe.groups has bowel, extravasation.* no column bowel_healthy"
    with pytest.raises(InputError, match=match):
        make_plan(*cohort, recipe, init="scratch")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"groups": ()}, "groups must be different ones of bowel, .*, got none"),
        ({"groups": ("liver", "liver")}, "got liver, liver"),
        ({"groups": ("liver", "heart")}, "got liver, heart"),
        ({"label_fraction": 0.0}, "label_fraction must be above 0 and at most 1, got 0.0"),
        ({"label_fraction": 1.5}, "got 1.5"),
        ({"label_fraction": float("nan")}, "got nan"),
        ({"steps": 0}, "steps must be >= 1 or none, got 0"),
    ],
)
def test_impossible_values(changes: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        changed(**changes)


def test_a_fraction_of_the_labels(cohort: tuple[Store, Path], tmp_path: Path) -> None:
    """Test patients stay; of the 11 others, round(0.5 * 11) = 6 have labels and are predicted."""
    whole = make_plan(*cohort, RECIPE, init="scratch")
    recipe = changed(label_fraction=0.5, steps=3)
    plan = make_plan(*cohort, recipe, init="scratch")
    assert plan.split.test == whole.split.test
    kept = {patient for fold in plan.split.folds for patient in fold}
    assert len(kept) == 6
    for fold in range(2):
        assert set(plan.split.folds[fold]) <= set(whole.split.folds[fold])
        assert set(plan.training_series(fold).patients) == kept - set(plan.split.folds[fold])
    assert set(plan.labels.patient_ids) == kept | set(plan.split.test)
    summary = finetune(*cohort, tmp_path / "run", recipe=recipe, device="cpu")
    assert (summary.steps, summary.patients) == (2 * 3, 6 + 3)
    table = read_predictions(tmp_path / "run/predictions.parquet")
    assert set(table["patient_id"]) == kept | set(plan.split.test)
    other = make_plan(*cohort, changed(label_fraction=0.5, seed=1), init="scratch")
    assert {p for fold in other.split.folds for p in fold} != kept


def test_steps_are_of_each_fold(cohort: tuple[Store, Path]) -> None:
    plan = make_plan(*cohort, changed(steps=7, epochs=1), init="scratch")
    assert [plan.count_steps(fold) for fold in range(2)] == [7, 7]


def test_a_class_without_training_patients(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The only patient with a high grade of the spleen is in fold 1, so fold 1 trains without."""
    store, _ = small_cohort(tmp_path)
    plan = make_plan(store, tmp_path / "train.csv", RECIPE, init="scratch")
    groups = (plan.split.test, *plan.split.folds)
    grade = {patient: i % 3 for group in groups for i, patient in enumerate(group)}
    ids = sorted(grade)
    grades = np.tile([[grade[patient]] for patient in ids], 3)
    grades[:, 2] = np.minimum(grades[:, 2], 1)
    grades[ids.index(plan.split.folds[1][0]), 2] = 2
    labels = write_labels(tmp_path / "rare.csv", ids, grades)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        make_plan(store, labels, RECIPE, init="scratch")
    (record,) = caplog.records
    assert record.message == (
        "fold 1: no training patient is spleen_high, which its model cannot learn; label such "
        "patients, or take fewer folds"
    )
