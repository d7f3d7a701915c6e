"""A model card's folder: the run's predictions, every item, and nothing of a patient."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from flows.command import main
from tests.support.small_finetune import RECIPE, small_cohort
from voco_data.errors import InputError, VocoError
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_models.evaluation.predictions import group_columns
from voco_models.stages import evaluation, model_card
from voco_models.stages.card_facts import collect_facts
from voco_models.stages.card_items import CLAIM, ITEMS, TRIPOD, fill_items
from voco_models.stages.classifiers import build_classifier
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.finetuning import finetune
from voco_models.stages.finished_run import read_finished_run
from voco_models.stages.model_card import (
    load_card_classifier,
    make_model_card,
    without_patients,
)
from voco_models.stages.recipe_options import build_recipe


@dataclasses.dataclass(frozen=True)
class Case:
    store: Store
    run: Path
    card: Path
    summary: model_card.CardSummary


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A run of all patients by a list of them, evaluated, and its card."""
    folder = tmp_path_factory.mktemp("case")
    store, labels = small_cohort(folder)
    ids = sorted(store.catalogue["patient_id"])
    changes = [f"selection.patients={json.dumps(ids)}", "epochs=1", "ema_decay=0.5"]
    finetune(store, labels, folder / "run", recipe=RECIPE, changes=changes, device="cpu")
    results = evaluation.compute_results(folder / "run")
    (folder / "run" / "metrics.json").write_text(json.dumps(results))
    summary = make_model_card(folder / "run", folder / "out" / "card")
    return Case(store, folder / "run", folder / "out" / "card", summary)


def files_of(card: Path) -> list[Path]:
    return sorted(path for path in card.rglob("*") if path.is_file())


def test_no_id_of_a_patient_or_series_is_in_any_byte(case: Case) -> None:
    columns = ["patient_id", "study_uid", "series_uid", "source"]
    ids = {value for name in columns[:3] for value in case.store.catalogue[name]}
    ids |= set(pd.read_parquet(case.run / "labels.parquet")["patient_id"])
    assert len(ids) == 3 * len(case.store)
    # The run itself has them, so the search can find them.
    assert next(iter(case.store.catalogue["patient_id"])) in (case.run / "run.json").read_text()
    for file in files_of(case.card):
        content = file.read_bytes()
        assert not [each for each in ids if each.encode() in content], file.name
        assert str(case.run.parent).encode() not in content, file.name
        assert not any(each in str(file.relative_to(case.card)) for each in ids)


def test_the_weights_in_the_recipes_classifier_give_the_runs_predictions(case: Case) -> None:
    """With plain PyTorch: the files, the recipe, and the store's volumes."""
    recipe = build_recipe(FinetuneRecipe, json.loads((case.card / "recipe.json").read_text()))
    table = pd.read_parquet(case.run / "predictions.parquet")
    expected = table[(table["level"] == "series") & (table["split"] == "test")]
    rows = case.store.catalogue.set_index("series_uid")["row"][expected["series_uid"]]
    voxels = np.stack([case.store.read(int(row)) for row in rows]).astype(np.float32)
    spec = json.loads((case.card / "spec.json").read_text())
    low_hu = spec["window_level_hu"] - spec["window_width_hu"] / 2
    hu = low_hu + voxels / 255 * spec["window_width_hu"]
    low, high = recipe.window_hu or (low_hu, low_hu + spec["window_width_hu"])
    inputs = torch.from_numpy(2 * ((hu - low) / (high - low)).clip(0, 1) - 1).float()
    folds = []
    for fold in range(2):
        network = build_classifier(recipe)
        weights = case.card / "weights" / f"fold-{fold}.safetensors"
        network.load_state_dict(safetensors.torch.load_file(weights), strict=True)
        with torch.inference_mode():
            folds.append({n: z.softmax(-1) for n, z in network.eval()(inputs).items()})
            again = load_card_classifier(case.card, fold)(inputs)
        for name, logits in again.items():
            assert torch.equal(logits.softmax(-1), folds[fold][name])
    for group in recipe.targets:
        mean = torch.stack([fold[group.name] for fold in folds]).mean(dim=0).numpy()
        np.testing.assert_allclose(mean, expected[group_columns(group)], atol=1e-5)


def test_checksums_are_of_all_files(case: Case) -> None:
    lines = (case.card / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert sums == {
        file.relative_to(case.card).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files_of(case.card)
        if file.name != "SHA256SUMS"
    }
    assert case.summary.files == len(sums) + 1
    assert {"weights/fold-0.safetensors", "weights/fold-1.safetensors", "decision.json"} < set(sums)


def test_a_changed_file_is_refused(case: Case, tmp_path: Path) -> None:
    copy = tmp_path / "card"
    shutil.copytree(case.card, copy)
    weights = copy / "weights" / "fold-0.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="was changed"):
        load_card_classifier(copy, 0)
    with pytest.raises(InputError, match="expected a whole folder"):
        load_card_classifier(copy, 2)


def test_both_guidelines_are_complete() -> None:
    """44 items of CLAIM 2024; 27 of TRIPOD+AI with 52 parts."""
    numbers: dict[str, list[str]] = {CLAIM: [], TRIPOD: []}
    for item in ITEMS:
        numbers[item.guideline].append(item.number)
        assert item.fact is not None or item.gap is not None, item
    assert numbers[CLAIM] == [str(number) for number in range(1, 45)]
    assert len(set(numbers[TRIPOD])) == len(numbers[TRIPOD]) == 52
    parts = Counter(int(number.rstrip("abcdefg")) for number in numbers[TRIPOD])
    assert sorted(parts) == list(range(1, 28))
    assert parts[12] == 7
    assert parts[18] == 6


TITLES = {
    CLAIM: {
        "10": "data subsets",
        "12": "missing data",
        "13": "Image acquisition protocol",
        "14": "reference standard",
        "17": "Annotation of test set",
        "20": "partitions are disjoint",
        "21": "sample size",
        "24": "Initialization of model parameters",
        "26": "selecting the final model",
        "27": "Ensembling techniques",
        "29": "significance and uncertainty",
        "30": "Robustness or sensitivity analysis",
        "33": "Testing on external data",
        "34": "Clinical trial registration",
        "36": "characteristics of cases in each partition",
        "37": "Performance metrics and measures of statistical uncertainty",
        "39": "Failure analysis",
        "44": "Sources of funding",
    },
    TRIPOD: {
        "3c": "health inequalities",
        "6c": "treatments received",
        "8c": "blind assessment of the outcome",
        "11": "Missing data",
        "12d": "heterogeneity across clusters",
        "12f": "model updating arising from the model evaluation",
        "13": "Class imbalance",
        "14": "Fairness",
        "16": "differences between the development and evaluation data",
        "17": "Ethical approval",
        "18c": "Protocol",
        "18d": "Registration",
        "18f": "Code sharing",
        "20a": "flow of participants",
        "23b": "heterogeneity in model performance across clusters",
        "24": "Model updating",
        "27a": "poor quality or unavailable input data",
    },
}
"""Words of the published lists: items of each section, and those whose topic is easily mistaken."""


def test_topics_are_those_of_the_published_lists() -> None:
    """A topic and the published words have a word in common, up to its ending."""
    topics = {(item.guideline, item.number): item.topic for item in ITEMS}

    def stems(text: str) -> set[str]:
        words = text.lower().replace("-", " ").split()
        return {word[:5] for word in words if len(word) > 3} - {"model", "data"}

    for guideline, titles in TITLES.items():
        for number, published in titles.items():
            topic = topics[guideline, number]
            assert stems(topic) & stems(published), (guideline, number, topic, published)
    assert "cluster" in topics[TRIPOD, "23b"]


def test_an_item_is_filled_or_named_as_a_gap(case: Case) -> None:
    card = json.loads((case.card / "model-card.json").read_text())
    text = (case.card / "MODEL_CARD.md").read_text()
    assert len(card["items"]) == len(ITEMS)
    for item in card["items"]:
        assert item["text"] or item["gap"], item
        line = f"| {item['number']} | {item['topic']} | "
        (row,) = [each for each in text.splitlines() if each.startswith(line)]
        assert item["text"] is None or item["text"] in row
        assert item["gap"] is None or f"**not recorded: {item['gap']}**" in row
    by_status = Counter(item["status"] for item in card["items"])
    summary = case.summary
    assert by_status == {
        "filled": summary.filled,
        "partly filled": summary.partly_filled,
        "gap": summary.gaps,
    }


def test_items_say_what_the_run_did(case: Case) -> None:
    card = json.loads((case.card / "model-card.json").read_text())
    told = {item["number"]: item for item in card["items"] if item["guideline"] == CLAIM}
    labels = pd.read_parquet(case.run / "labels.parquet")
    split = json.loads((case.run / "split.json").read_text())["additions"][0]["test"]
    assert f"{len(split)} test patients" in told["19"]["text"]
    kidney = labels[labels["patient_id"].isin(split)]["kidney"].value_counts()
    counts = [f"{name} {kidney.get(c, 0)}" for c, name in enumerate(("healthy", "low", "high"))]
    assert f"test ({len(split)} patients)" in told["36"]["text"]
    assert f"kidney: {', '.join(counts)}" in told["36"]["text"].split("test (")[1]
    run = json.loads((case.run / "run.json").read_text())
    assert run["labels_sha256"] in told["14"]["text"]
    assert run["torch"] in told["23"]["text"]
    assert "decay 0.5" in told["26"]["text"]
    assert "a list of patients" in told["8"]["text"]
    metrics = json.loads((case.run / "metrics.json").read_text())
    assert f"rsna_organ_3 {metrics['scores']['rsna_organ_3']['value']:.3f}" in told["37"]["text"]
    assert card["metrics"]["scores"] == metrics["scores"]
    spec = StoreSpec.from_mapping(json.loads((case.card / "spec.json").read_text()))
    assert spec == case.store.spec


def test_a_run_that_was_not_evaluated_has_gaps_instead_of_scores(case: Case) -> None:
    run = read_finished_run(case.run)
    items = fill_items(collect_facts(run, run.load_classifier(0), None))
    told = {item.number: item for item in items if item.guideline == CLAIM}
    for number in ("28", "29", "32", "37", "38"):
        assert told[number].status == "gap"
        assert told[number].gap
    assert "not evaluated" in str(told["2"].text)


def test_lists_of_patients_are_left_out_at_any_depth() -> None:
    given: dict[str, Any] = {
        "recipe": {"selection": {"patients": ["7"], "patients_file": "x.txt", "layouts": []}},
        "selection": {"patients": 3},
    }
    assert without_patients(given) == {
        "recipe": {"selection": {"layouts": []}},
        "selection": {"patients": 3},
    }


def test_the_command_refuses_what_it_cannot_hand_over(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(case.run), "--out", str(tmp_path / "card"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["evaluated"] is True
    assert result["folds"] == 2
    assert [file.name for file in files_of(tmp_path / "card")] == [
        file.name for file in files_of(case.card)
    ]
    assert main(["card", str(case.run), "--out", str(tmp_path / "card")]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert main(["card", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


def test_a_card_that_cannot_be_finished_leaves_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise VocoError("stop")

    monkeypatch.setattr(model_card, "render_card", fail)
    with pytest.raises(VocoError, match="stop"):
        make_model_card(case.run, tmp_path / "card")
    assert list(tmp_path.iterdir()) == []
