"""Evaluation: numbers from known predictions, and the run of a real fine-tuning."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.known_run import ORGANS, write_known_run
from tests.support.small_finetune import RECIPE, small_cohort
from voco_data.errors import InputError
from voco_models.evaluation import looks, metrics, predictions
from voco_models.evaluation.decision import fit_decision, read_decision
from voco_models.stages.comparison import compare_runs
from voco_models.stages.evaluation import compute_results, evaluate
from voco_models.stages.finetuning import finetune
from voco_models.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    store, labels = small_cohort(folder)
    finetune(store, labels, folder / "run", recipe=RECIPE, device="cpu")
    return folder / "run"


def test_scores_are_those_of_the_test_patients(tmp_path: Path) -> None:
    run = write_known_run(tmp_path / "run", quality=2.0)
    found = compute_results(run)
    table = predictions.read_predictions(run / predictions.FILE)
    test = predictions.patient_lines(table, "test")
    raw, truths = predictions.group_probabilities(test), predictions.group_truths(test)
    expected = metrics.rsna_scores(raw, truths)["rsna_organ_3"]
    assert found["arms"]["model_uncalibrated"]["rsna_organ_3"] == pytest.approx(expected)
    assert found["scores"]["rsna_organ_3"]["value"] == found["arms"]["model"]["rsna_organ_3"]
    assert found["test_patients"] == 50
    assert found["training_patients"] == 150
    cells = [sum(map(sum, organ["confusion"])) for organ in found["organs"].values()]
    assert cells == [50, 50, 50]
    for name, interval in found["scores"].items():
        assert interval["low"] <= interval["value"] <= interval["high"], name


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        ({"class_weights": [1.0, 1.0, 1.0], "calibrate": False}, (1, 1, 1)),
        ({"class_weights": [1.0, 3.0, 9.0], "calibrate": False}, (1, 3, 9)),
        ({"class_weights": [1.0, 1.0, 1.0], "calibrate": True}, (1, 2, 4)),
    ],
)
def test_the_weights_that_are_divided_out_are_those_of_the_probabilities(
    tmp_path: Path, recipe: dict[str, object], weights: tuple[int, ...]
) -> None:
    """Without calibration, probabilities are as the loss of training made them."""
    runs = [write_known_run(tmp_path / name, quality=2.0) for name in ("run", "other")]
    for run in runs:
        described = checkpoint.read_run(run)
        checkpoint.write_run(run, described | {"recipe": described["recipe"] | recipe})
    table = predictions.read_predictions(runs[0] / predictions.FILE)
    test = predictions.patient_lines(table, "test")
    p = read_decision(runs[0]).calibrate(predictions.group_probabilities(test))["liver"] / weights
    truth = np.eye(3)[predictions.group_truths(test)["liver"]]
    expected = np.square(p / p.sum(axis=1, keepdims=True) - truth).sum(axis=1).mean()
    found = compute_results(runs[0])["measures"]["by_group"]["liver"]["brier"]["value"]
    assert found == pytest.approx(expected)
    (compared,) = [
        row["run"]
        for row in compare_runs(*runs, tmp_path / "out").differences
        if row["score"] == "liver/brier"
    ]
    assert compared == pytest.approx(expected)


def test_a_good_model_beats_every_constant(tmp_path: Path) -> None:
    found = compute_results(write_known_run(tmp_path / "run", quality=3.0))
    for constant in ("training_prior", "training_weight_optimal", "test_best_constant"):
        assert found["gains"][constant]["rsna_organ_3"]["low"] > 0.2
    assert found["gains"]["training_prior"]["rsna_official_6"]["low"] > 0
    assert found["scores"]["mean_average_precision"]["value"] > 0.9


def test_gains_of_organs_are_differences_of_their_losses(tmp_path: Path) -> None:
    found = compute_results(write_known_run(tmp_path / "run", quality=3.0))
    for organ in ORGANS:
        gain = found["gains"]["test_best_constant"][organ]
        constant = found["arms"]["test_best_constant"][organ]
        assert gain["value"] == pytest.approx(constant - found["organs"][organ]["loss"])
        assert 0 < gain["low"] < gain["value"] < gain["high"]


def test_a_model_that_has_learnt_nothing_beats_no_constant(tmp_path: Path) -> None:
    found = compute_results(write_known_run(tmp_path / "run", quality=0.0))
    assert found["gains"]["test_best_constant"]["rsna_organ_3"]["value"] < 0
    assert abs(found["gains"]["training_weight_optimal"]["rsna_organ_3"]["value"]) < 0.02


def test_constants_are_ordered_and_the_prior_is_right(tmp_path: Path) -> None:
    run = write_known_run(tmp_path / "run", quality=1.0)
    arms = compute_results(run)["arms"]
    best, optimal, prior = (
        arms[name]["rsna_organ_3"]
        for name in ("test_best_constant", "training_weight_optimal", "training_prior")
    )
    assert best < optimal < prior
    # The prior by hand, from the labels alone.
    labels = pd.read_parquet(run / "labels.parquet")
    test, training = labels[:50], labels[50:]
    losses = []
    for organ in ORGANS:
        share = training[organ].value_counts(normalize=True).sort_index().to_numpy()
        weight = np.array([1, 2, 4])[test[organ]]
        losses.append(np.average(-np.log(share[test[organ]]), weights=weight))
    assert prior == pytest.approx(np.mean(losses))


def test_groups_without_heads_gain_nothing(tmp_path: Path) -> None:
    arms = compute_results(write_known_run(tmp_path / "run", quality=1.0))["arms"]
    for group in ("bowel", "extravasation"):
        assert arms["model"][group] == arms["training_prior"][group]


def test_without_binary_labels_there_is_no_official_score(tmp_path: Path) -> None:
    found = compute_results(write_known_run(tmp_path / "run", quality=1.0, binary=False))
    assert "rsna_official_6" not in found["scores"]
    assert "rsna_organ_3_any" in found["scores"]


def test_the_decision_does_not_depend_on_test_labels(tmp_path: Path) -> None:
    one = write_known_run(tmp_path / "one", quality=1.0)
    table = predictions.read_predictions(one / predictions.FILE)
    out_of_fold = predictions.patient_lines(table, "oof")
    assert set(out_of_fold["split"]) == {"oof"}
    fitted = json.loads(fit_decision(out_of_fold, calibrate=True).to_json())
    assert fitted == compute_results(one)["decision"]


def test_evaluating_a_real_run(run: Path, tmp_path: Path) -> None:
    summary = evaluate(run, tmp_path / "out")
    assert summary.test_patients == 3
    assert set(summary.scores) == {
        "rsna_organ_3",
        "rsna_organ_3_any",
        "rsna_official_6",
        "mean_average_precision",
        "macro_precision",
        "macro_recall",
    }
    printed = json.loads(json.dumps(summary.to_json()))
    assert Path(printed["report"]).is_file()
    numbers = json.loads(Path(printed["metrics"]).read_text())
    assert printed["gain"] == numbers["gains"]["training_prior"]["rsna_organ_3"]
    assert set(printed["organ_gains"]) == set(ORGANS)
    liver = numbers["gains"]["test_best_constant"]["liver"]
    assert printed["organ_gains"]["liver"] == liver
    assert printed["beats_prior"] == (printed["gain"]["low"] > 0)


@pytest.mark.usefixtures("drawn_plots")
def test_evaluating_two_copies_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns(looks.FILE))
        evaluate(tmp_path / name)
    for file in ("report.html", "metrics.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    store, labels = small_cohort(tmp_path)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    finetune(store, labels, tmp_path / "run", recipe=recipe, device="cpu", max_steps=1)
    with pytest.raises(InputError, match="finished fine-tuning run"):
        evaluate(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("labels.parquet", "junk", "expected the labels of a fine-tuning run"),
        ("decision.json", '{"calibration": {"liver": [1]}, "thresholds": {}}', "the decision of"),
        ("decision.json", '{"calibration": {}, "thresholds": {}}', "the decision of"),
        (
            "evaluations.json",
            (
                '{"format": "voco evaluations", "version": 1, "looks": [{"kind": "evaluation", '
                '"time": "", "voco": "", "out": ".", "sha256": null}]}'
            ),
            "expected the record of looks",
        ),
    ],
)
def test_a_damaged_file_of_a_run_is_one_line(
    tmp_path: Path, name: str, content: str, match: str
) -> None:
    runs = [write_known_run(tmp_path / run, quality=2.0, count=40) for run in ("run", "other")]
    (runs[0] / name).write_text(content)
    for call in (evaluate, lambda run: compare_runs(runs[1], run, tmp_path / "out")):
        with pytest.raises(InputError, match=match) as caught:
            call(runs[0])
        assert "\n" not in str(caught.value)
        assert str(runs[0] / name) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder_for_results(tmp_path: Path) -> None:
    runs = [write_known_run(tmp_path / run, quality=2.0, count=40) for run in ("run", "other")]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder as --out, got a file"):
        evaluate(runs[0], tmp_path / "file")
    with pytest.raises(InputError, match="expected a folder as --out, got a file"):
        compare_runs(*runs, tmp_path / "file")
    assert not (runs[0] / "evaluations.json").exists()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json"):
        evaluate(tmp_path)
    checkpoint.write_run(tmp_path, {"stage": "pretrain", "finished": True})
    with pytest.raises(InputError, match="finished fine-tuning run"):
        evaluate(tmp_path)


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("run:0123456789ab", "It is unknown whether the backbone was pretrained on any of the"),
        ("scratch", "The backbone was not pretrained on scans."),
    ],
)
def test_runs_of_older_versions_do_not_tell_what_pretraining_saw(
    run: Path, tmp_path: Path, init: str, text: str
) -> None:
    older = tmp_path / "run"
    shutil.copytree(run, older, ignore=shutil.ignore_patterns(looks.FILE))
    description = checkpoint.read_run(older) | {"init": init}
    del description["exposure"]
    checkpoint.write_run(older, description)
    summary = evaluate(older).to_json()
    assert summary["transductive"] is None
    assert summary["pretrained_on_test_patients"] == (None if init != "scratch" else 0)
    assert text in " ".join((older / "report.html").read_text().split())
