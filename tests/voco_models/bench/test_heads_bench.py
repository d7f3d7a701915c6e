"""`voco bench heads`: cached features are the classifier's, and test patients are left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from flows.command import main
from tests.support.small_finetune import PATIENTS, RECIPE, small_cohort
from voco_data.errors import InputError, VocoError
from voco_data.labels.targets import ORGAN_TARGETS
from voco_data.store.reader import Store
from voco_models.bench import heads
from voco_models.bench.head_features import cache_features, join_stages
from voco_models.bench.head_scores import cross_calibrate
from voco_models.bench.head_training import HeadSetting, measure_scale, train_head
from voco_models.evaluation.metrics import weighted_log_loss
from voco_models.evaluation.predictions import make_series_table, to_patients
from voco_models.networks.classifier import HEADS
from voco_models.networks.heads import FeatureLayout
from voco_models.networks.slice_features import SliceFeatures
from voco_models.stages.finetune_plan import FinetunePlan, make_plan

CPU = torch.device("cpu")
SMALL = dataclasses.replace(RECIPE, epochs=1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return small_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def table(cohort: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All heads, two seeds."""
    cache = tmp_path_factory.mktemp("cache")
    store, labels = cohort
    return heads.bench(store, labels, recipe=SMALL, seeds=2, cache=cache, device="cpu")


def plan_of(cohort: tuple[Store, Path], **changes: Any) -> FinetunePlan:
    """With the test patients of the benchmark."""
    store, labels = cohort
    recipe = dataclasses.replace(SMALL, **changes)
    return make_plan(store, labels, heads._recipe_for(recipe, list(HEADS)), init="scratch")


def test_the_table_has_every_head_on_all_patients_but_the_test_set(
    table: dict[str, Any], cohort: tuple[Store, Path]
) -> None:
    test = len(plan_of(cohort).split.test)
    assert test >= 1
    assert table["test_patients_left_out"] == test
    assert table["patients"] == PATIENTS - test
    assert table["caches"][0]["series"] == PATIENTS - test
    names = [(row["head"], row["features"]) for row in table["rows"]]
    assert names == [*((head, "pooled") for head in HEADS), ("organ_queries", "stages")]
    for row in table["rows"]:
        assert row["low"] <= row["rsna_organ_3"] <= row["high"]
        seeds = list(row["by_seed"].values())
        assert row["rsna_organ_3"] == pytest.approx(np.mean(seeds))
        assert row["sd"] == pytest.approx(np.std(seeds, ddof=1))
        losses = [table["best_constant"][organ] - row[f"{organ}_gain"] for organ in row["gains"]]
        assert row["rsna_organ_3"] == pytest.approx(np.mean(losses), abs=1e-3)
    best = {(line["head"], line["features"]): line for line in table["differences"]}
    assert best["transformer", "pooled"]["value"] == pytest.approx(
        table["rows"][3]["rsna_organ_3"] - table["rows"][0]["rsna_organ_3"]
    )


def test_the_same_call_gives_the_same_scores_from_the_features_on_disk(
    table: dict[str, Any], cohort: tuple[Store, Path], tmp_path: Path
) -> None:
    store, labels = cohort
    options: dict[str, Any] = {"recipe": SMALL, "heads": ["gated_attention"], "device": "cpu"}
    once = heads.bench(store, labels, seeds=2, cache=tmp_path, **options)
    (row,) = once["rows"]
    (former,) = [
        r for r in table["rows"] if (r["head"], r["features"]) == ("gated_attention", "pooled")
    ]
    assert row["by_seed"] == former["by_seed"]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/pooled/*.npy")}
    assert len(files) == once["series"]
    assert not list(tmp_path.glob("*/stages/*"))  # no chosen head needs them
    again = heads.bench(store, labels, seeds=2, cache=tmp_path, **options)
    assert again["rows"][0]["by_seed"] == row["by_seed"]
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_without_stages_all_heads_are_trained_on_pooled_features(
    table: dict[str, Any], cohort: tuple[Store, Path], tmp_path: Path
) -> None:
    store, labels = cohort
    pooled = heads.bench(
        store,
        labels,
        recipe=SMALL,
        heads=["gated_attention", "organ_queries"],
        seeds=2,
        stages=False,
        cache=tmp_path,
        device="cpu",
    )
    former = {(row["head"], row["features"]): row["by_seed"] for row in table["rows"]}
    found = {(row["head"], row["features"]): row["by_seed"] for row in pooled["rows"]}
    assert set(found) == {("gated_attention", "pooled"), ("organ_queries", "pooled")}
    assert found.items() <= former.items()
    assert not list(tmp_path.glob("*/stages/*"))


@pytest.mark.parametrize("kind", ["pooled", "stages"])
def test_cached_features_are_those_of_the_classifier(
    cohort: tuple[Store, Path], tmp_path: Path, kind: Any
) -> None:
    plan = plan_of(cohort, pooling="mean")
    backbone = heads._make_backbone(plan)
    rows = plan.series.rows[:5]
    features = cache_features(plan, backbone, tmp_path, [kind], "mean", rows, CPU)
    volumes = torch.from_numpy(np.stack([cohort[0].read(row) for row in rows])).float()
    low, high = plan.window.low, plan.window.high
    inputs = 2 * ((volumes - low) / (high - low)).clamp(0, 1) - 1
    found = torch.from_numpy(np.stack(features.open(kind, rows))).float()
    if kind == "pooled":
        own = SliceFeatures(backbone, 32, pooling="mean").eval()
        with torch.inference_mode():
            expected = own(inputs).flatten(2)
    else:
        shapes = join_stages(backbone, 32, 4).shapes
        assert [shape[1:] for shape in shapes] == [(4, 4), (2, 2), (1, 1)]  # from 8 px on
        with torch.inference_mode():
            maps = backbone.feature_maps(inputs.flatten(0, 1)[:, None])[-len(shapes) :]
        of_places = [one.permute(0, 2, 3, 1).flatten(1) for one in maps]
        expected = torch.cat(of_places, dim=1).unflatten(0, (5, 4))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)  # float16


def test_a_damaged_file_of_features_is_named(cohort: tuple[Store, Path], tmp_path: Path) -> None:
    plan = plan_of(cohort)
    rows = plan.series.rows[:2]
    backbone = heads._make_backbone(plan)
    features = cache_features(plan, backbone, tmp_path, ["pooled"], "mean", rows, CPU)
    damaged = features.path_of("pooled", rows[1])
    for content in (b"", damaged.read_bytes()[:200], b"no array"):
        damaged.write_bytes(content)
        with pytest.raises(VocoError, match=f"{damaged.name}: expected features"):
            features.open("pooled", rows)


def test_other_weights_have_another_folder(cohort: tuple[Store, Path], tmp_path: Path) -> None:
    folders = set()
    for seed in (0, 1):
        plan = plan_of(cohort, seed=seed)
        backbone = heads._make_backbone(plan)
        rows = plan.series.rows[:1]
        folders.add(cache_features(plan, backbone, tmp_path, ["pooled"], "mean", rows, CPU).folder)
    assert len(folders) == 2
    assert {line["cache"] for line in heads.list_caches(tmp_path)} == {f.name for f in folders}


def test_features_are_scaled_by_hand_computed_means() -> None:
    arrays = [np.array([[0, 5], [2, 5]], np.float16), np.array([[4, 5]], np.float16)]
    mean, sd = measure_scale(arrays)
    assert mean.tolist() == [2, 5]
    assert sd.tolist() == pytest.approx([np.sqrt(8 / 3), 1.0])  # a constant is not enlarged


def test_a_head_learns_labels_that_the_features_show(
    cohort: tuple[Store, Path], tmp_path: Path
) -> None:
    """Features that are the class itself: the loss falls far below the constant's."""
    plan = plan_of(cohort, epochs=60, lr=0.02, hidden=8, dropout=0.0)
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, attention_weight=0.0))
    backbone = heads._make_backbone(plan)
    features = cache_features(
        plan, backbone, tmp_path, ["pooled"], "mean", plan.series.rows[:1], CPU
    )
    classes = plan.classes_of(plan.series)
    for index, row in enumerate(plan.series.rows):
        shown = np.zeros((4, 9), np.float16)
        for g, name in enumerate(plan.targets.names):
            shown[:, 3 * g + int(classes[name][index])] = 1
        np.save(features.path_of("pooled", row), shown)
    setting = HeadSetting("gated_attention", "pooled", FeatureLayout(9, (1, 1)))
    _, losses = train_head(plan, setting, backbone, features, fold=0, seed=0, device=CPU)
    assert len(losses) == plan.count_steps(0)
    assert np.mean(losses[-5:]) < 0.2 < 0.8 < losses[0]


def test_no_patient_is_calibrated_on_itself() -> None:
    """A fold of which the other one says the opposite: calibration makes it a constant."""
    truth = np.array([0, 1, 2] * 4 + [0, 1, 2] * 4)
    right = np.eye(3)[truth] * 0.9 + 0.1 / 3
    wrong = np.eye(3)[(truth + 1) % 3] * 0.9 + 0.1 / 3
    fold = np.repeat([0, 1], 12)
    p = np.where(fold[:, None] == 0, wrong, right)
    names = [f"{i:02d}" for i in range(24)]
    parts = [
        make_series_table(
            split="oof",
            fold=f,
            patients=[n for n, at in zip(names, fold, strict=True) if at == f],
            series=[n for n, at in zip(names, fold, strict=True) if at == f],
            probabilities=dict.fromkeys(ORGAN_TARGETS.names, p[fold == f]),
            truths=dict.fromkeys(ORGAN_TARGETS.names, truth[fold == f]),
        )
        for f in (0, 1)
    ]
    lines = to_patients(pd.concat(parts, ignore_index=True), "mean")
    calibrated = cross_calibrate(lines, ORGAN_TARGETS)
    liver = calibrated["liver"]
    # Fold 1 is calibrated on fold 0, which is always wrong: the weight-optimal constant, 1 : 2 : 4.
    np.testing.assert_allclose(liver[fold == 1], np.tile([1 / 7, 2 / 7, 4 / 7], (12, 1)), atol=1e-6)
    # Fold 0 is calibrated on fold 1, which is always right: it stays wrong.
    weights = ORGAN_TARGETS["liver"].weights
    assert weighted_log_loss(liver[fold == 0], truth[:12], weights) > 2


def test_bad_options_are_one_line(
    cohort: tuple[Store, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, labels = cohort
    for options, message in (
        ({"heads": ["lstm"]}, "expected some of bilstm"),
        ({"seeds": 0}, "expected at least 1"),
        ({"changes": ["hidden=6"]}, "multiple of 4"),
        ({"changes": ['groups=["liver"]']}, "the score needs kidney, liver, spleen"),
    ):
        with pytest.raises(InputError, match=message):
            heads.bench(store, labels, recipe=SMALL, cache=tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()
    words = ["bench", "heads", str(store.path), "--labels", str(labels), "--recipe", "tiny"]
    assert main([*words, "--head", "nope", "--cache", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected some of bilstm" in line


def test_the_command_prints_the_table(
    cohort: tuple[Store, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, labels = cohort
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'base = "tiny"\nepochs = 1\nbatch_size = 2\nhidden = 4\n'
        "[view]\nslices = 4\nsize_px = 32\nz_range = [0.0, 1.0]\n"
    )
    words = ["bench", "heads", str(store.path), "--labels", str(labels), "--seeds", "1"]
    words += ["--recipe", str(recipe), "--head", "bilstm", "--device", "cpu", "--json"]
    assert main([*words, "--cache", str(tmp_path / "cache")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = result["rows"]
    # LSTM of two directions: 4 gates of 4 units from 1024 inputs, 4 states and 2 biases; 3 heads.
    assert row["parameters"] == 2 * 4 * 4 * (1024 + 4 + 2) + 3 * (8 * 3 + 3)
    assert row["sd"] is None
    assert result["recipe"] == "small"
