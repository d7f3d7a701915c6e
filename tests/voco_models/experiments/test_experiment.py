"""An experiment: what is planned, trained, reused and continued, and what the tables say."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.small_experiment import DECLARATION, declare
from tests.support.small_finetune import PATIENTS
from voco_data.errors import InputError
from voco_data.selection.split import Split
from voco_models.evaluation.comparison import POWER_FACTOR
from voco_models.evaluation.predictions import read_predictions
from voco_models.experiments import running
from voco_models.experiments.comparison import SCORES, Cell, compare
from voco_models.experiments.declaration import read_experiment
from voco_models.experiments.experiment import ExperimentSummary, run_experiment
from voco_models.experiments.jobs import list_trials
from voco_models.experiments.results import format_table
from voco_models.experiments.run_folders import JOB_FILE, own_run
from voco_models.experiments.running import run_job
from voco_models.experiments.tables import table_1
from voco_models.stages.finetuning import finetune


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExperimentSummary]:
    """A finished experiment: its declaration and summary."""
    file = declare(tmp_path_factory.mktemp("experiment"))
    return file, run_experiment(file)


def test_all_runs_are_trained_and_scored(whole: tuple[Path, ExperimentSummary]) -> None:
    file, summary = whole
    assert (summary.trials, summary.trained, summary.reused) == (8, 8, 0)
    assert json.loads(json.dumps(summary.to_json()))["test_patients"] == summary.test_patients
    runs = pd.read_csv(file.parent / "out/runs.csv", dtype=str)
    assert len(runs) == 8
    assert set(zip(runs["arm"], runs["seed"], runs["label_fraction"], strict=True)) == {
        (arm, seed, fraction)
        for arm in ("scratch", "voco")
        for seed in "01"
        for fraction in ("0.6", "1.0")
    }
    made = sorted(path.name.split("-")[0] for path in (file.parent / "out/runs").iterdir())
    assert made == ["finetune"] * 8 + ["pretrain"] * 2


def test_pretraining_leaves_out_the_test_patients(whole: tuple[Path, ExperimentSummary]) -> None:
    folder = whole[0].parent / "out"
    test = set(Split.from_json((folder / "split.json").read_text()).test)
    for run in folder.glob("runs/pretrain-*"):
        (store,) = json.loads((run / "patients.json").read_text())["stores"]
        assert len(store["patients"]) == PATIENTS - len(test)
        assert not test & set(store["patients"])
    for run in folder.glob("runs/finetune-*"):
        assert json.loads((run / "run.json").read_text())["exposure"]["seen"] == 0


def test_scores_are_those_of_the_evaluations(whole: tuple[Path, ExperimentSummary]) -> None:
    """The same numbers as `voco evaluate` gives for each run, with its means over the seeds."""
    file, summary = whole
    for line in summary.scores:
        jobs = [
            trial.jobs[0]
            for trial in list_trials(read_experiment(file))
            if (trial.arm, trial.label_fraction) == (line["arm"], line["label_fraction"])
        ]
        for name in SCORES:
            found = [
                json.loads((job.folder / "metrics.json").read_text())["scores"][name]["value"]
                for job in jobs
            ]
            score = line[name]
            assert isinstance(score, dict)
            np.testing.assert_allclose(score["by_seed"], found, rtol=1e-12)
            assert score["mean"]["value"] == pytest.approx(np.mean(found), rel=1e-12)


def test_differences_are_paired_with_the_reference(whole: tuple[Path, ExperimentSummary]) -> None:
    scores = {(line["arm"], line["label_fraction"]): line for line in whole[1].scores}
    for fraction in (0.6, 1.0):
        assert scores["scratch", fraction]["rsna_organ_3"]["gain"] is None  # type: ignore[index]
        for name in SCORES:
            own, other = (scores[arm, fraction][name] for arm in ("voco", "scratch"))
            difference = own["mean"]["value"] - other["mean"]["value"]  # type: ignore[index]
            better = -difference if name == "rsna_organ_3" else difference
            assert own["gain"]["value"] == pytest.approx(better, abs=1e-12)  # type: ignore[index]


def test_runs_that_exist_are_reused(whole: tuple[Path, ExperimentSummary]) -> None:
    """Also those of an experiment with an arm more; nothing in them is touched."""
    file, summary = whole
    before = {p: p.stat().st_mtime_ns for p in (file.parent / "out/runs").rglob("*")}
    again = run_experiment(file)
    assert (again.trials, again.reused) == (8, 8)
    assert again.scores == summary.scores
    assert before == {p: p.stat().st_mtime_ns for p in (file.parent / "out/runs").rglob("*")}
    more = file.with_name("more.toml")
    more.write_text(file.read_text() + '\n[arms.again]\ninit = "scratch"\n')
    planned = run_experiment(more, plan_only=True)
    assert (planned.trials, planned.reused, planned.missing) == (12, 12, 0)  # those of `scratch`
    other = file.with_name("other.toml")
    other.write_text(file.read_text().replace("seeds = [0, 1]", "seeds = [0, 2]"))
    planned = run_experiment(other, plan_only=True)
    assert (planned.trials, planned.reused, planned.missing) == (8, 4, 4)


def test_a_stopped_run_is_continued(tmp_path: Path, whole: tuple[Path, ExperimentSummary]) -> None:
    """Stopped before the first checkpoint, in a fold, and before the score: the same results."""
    file = declare(tmp_path)
    (trial, *_) = [t for t in list_trials(read_experiment(file)) if t.arm == "voco"]
    (job,) = trial.jobs
    assert job.pretraining is not None
    job.pretraining.folder.mkdir(parents=True)
    (job.pretraining.folder / "run.json").write_text("{}")  # and no checkpoint
    assert run_job(job) == "trained"
    expected = read_predictions(job.folder / "predictions.parquet")
    for stop in (1, 3):
        shutil.rmtree(job.folder)
        finetune(
            job.store,
            job.labels,
            job.folder,
            init=job.init,
            recipe=job.recipe,
            split=job.split,
            max_steps=stop,
        )
        assert run_job(job) == "continued"
        pd.testing.assert_frame_equal(
            read_predictions(job.folder / "predictions.parquet"), expected
        )
    (job.folder / JOB_FILE).unlink()
    (job.folder / "metrics.json").unlink()
    assert run_job(job) == "continued"
    assert (job.folder / "metrics.json").exists()
    assert run_job(job) == "reused"


def test_fractions_are_nested_and_take_the_steps_of_all_labels(
    whole: tuple[Path, ExperimentSummary],
) -> None:
    trials = [t for t in list_trials(read_experiment(whole[0])) if t.arm == "scratch"]
    patients = {
        (trial.seed, trial.label_fraction): set(
            read_predictions(trial.jobs[0].folder / "predictions.parquet")["patient_id"]
        )
        for trial in trials
    }
    for seed in (0, 1):
        assert patients[seed, 0.6] < patients[seed, 1.0]
    # 14 patients: 3 in the test set, and 0.6 * 11 = 6.6, so 7 labelled ones.
    assert {len(p) for (_, fraction), p in patients.items() if fraction == 0.6} == {3 + 7}
    # 11 patients in 2 folds: the longer fold trains on 6 series, 2 a step, for 1 epoch.
    assert {trial.jobs[0].recipe.steps for trial in trials} == {None, 3}


def test_table_1_has_the_paper_beside_ours(whole: tuple[Path, ExperimentSummary]) -> None:
    trials = list_trials(read_experiment(whole[0]))
    comparison = compare(trials, "scratch")
    rows = table_1(comparison)
    ours = [row for row in rows if row["Origin"] == "ours"]
    assert [row["Setting"] for row in ours] == ["scratch", "voco"]
    score = comparison.scores[Cell("voco", trials[0].backbone, 1.0)]["rsna_organ_3"]
    a, b = score.by_seed
    expected = f"{(a + b) / 2:.4f} ± {abs(a - b) / 2**0.5:.4f}"
    assert ours[1]["RSNA score ↓"] == expected
    paper = [row for row in rows if row["Origin"] != "ours"]
    assert len(paper) == 6
    assert list(paper[2].values())[2:] == [
        "2D-VoCo, RATIC and FLARE23", "0.3777", "60.98", "66.71", "53.90",
    ]  # fmt: skip
    text = (whole[0].parent / "out/tables.md").read_text()
    assert expected in text
    assert "0.3777" in text
    page = (whole[0].parent / "out/report.html").read_text()
    assert expected in page
    assert "Label efficiency" in page


def test_no_text_ends_its_cell() -> None:
    table = format_table([{"Arm": "a|b\nc", "Score": "1"}, {"Arm": "d", "Score": "2"}])
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()] == [3, 3, 3, 3]


def test_the_smallest_difference_follows_from_the_resamples(
    whole: tuple[Path, ExperimentSummary],
) -> None:
    """An interval of 95 % is 3.92 standard deviations wide for a normal distribution, and 2 for two
    points. With two seeds, the resamples are a mixture of two."""
    for line in whole[1].scores:
        score = line["rsna_organ_3"]
        assert isinstance(score, dict)
        if score["gain"] is not None:
            width = score["gain"]["high"] - score["gain"]["low"]
            assert width / 3.92 * 0.8 < score["detectable"] / POWER_FACTOR < width / 2 * 1.1


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('reference = "scratch"', "", "reference: expected a value, got nothing"),
        (
            'reference = "scratch"',
            'reference = "best"',
            "one of the arms scratch, voco, got 'best'",
        ),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds must be one or more different numbers"),
        ("seeds = [0, 1]", 'seeds = "0"', "seeds: expected a list of whole numbers, got '0'"),
        ("[0.6, 1.0]", "[0.6, 1.2]", "label_fractions must be above 0 and at most 1"),
        ("seeds =", "sseds =", "no option sseds; expected some of store, labels"),
        ("[arms.scratch]", "[arms.scratch]\nint = 1", "no option arms.scratch.int; expected some"),
        ("[arms.voco]", '[arms.voco]\ninit = "imagenet"', "arms.voco: give init or pretrain"),
        ('recipe = "tiny"', 'recipe = "tinny"', "expected one of default, tiny"),
        ("fit.total_steps=2", "fit.steps=2", "no option fit.steps; did you mean fit"),
        ('labels = "train.csv"', 'labels = "no.csv"', "no.csv: cannot"),
        ("store = ", "store = [", "cannot be read as TOML"),
        ("seeds =", 'changes = ["label_fraction=0.5"]\nseeds =', "changes: label_fraction has no"),
        ("batch_size=2", "backbone=test_vit", "arms.voco.changes: backbone has no effect"),
        ('"fit.total_steps=2"', '"fit.seed=7"', "arms.voco.changes: fit.seed has no effect"),
        ("[arms.scratch]", '[arms.scratch]\nfinetune_changes = ["seed=1"]', "seed has no effect"),
        ("seeds =", 'changes = [\'groups=["bowel", "liver"]\']\nseeds =', "kidney, spleen is not"),
    ],
)
def test_a_declaration_that_is_not_possible_is_one_line(
    tmp_path: Path, old: str, new: str, match: str
) -> None:
    assert old in DECLARATION
    file = declare(tmp_path, DECLARATION.replace(old, new))
    with pytest.raises(InputError, match=match) as caught:
        list_trials(read_experiment(file))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/runs").exists()


def test_a_fraction_without_a_batch_is_found_before_training(tmp_path: Path) -> None:
    """Of the last seed; nothing is trained for the others."""
    text = DECLARATION.replace("[0.6, 1.0]", "[0.3, 1.0]")
    file = declare(tmp_path, text.replace('"small.toml"', '"small.toml"\nchanges=["batch_size=3"]'))
    with pytest.raises(InputError, match=r"label fraction 0.3 with seed \d: fold \d would train"):
        run_experiment(file, resident="ram")
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("[0.6, 1.0]", "[1.0, 0.05]", "none of the .* patients is in the fold"),
        ("reference =", 'backbones = ["test_byobnet", "no_such"]\nreference =', "no_such"),
        ("batch_size=2", "voco.grid=77", "grid"),
        ("[arms.voco]", '[arms.file]\ninit = "small.toml"\n[arms.voco]', "small.toml"),
        ("[arms.voco]", '[arms.x]\nfinetune_changes=["n_folds=3"]\n[arms.voco]', "2 folds"),
    ],
)
@pytest.mark.parametrize("plan_only", [False, True])
def test_a_run_that_cannot_be_trained_is_found_before_the_first(
    tmp_path: Path, old: str, new: str, match: str, plan_only: bool
) -> None:
    file = declare(tmp_path, DECLARATION.replace(old, new))
    with pytest.raises(InputError, match=match) as caught:
        run_experiment(file, plan_only=plan_only)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/runs").exists()


def test_other_patients_in_a_file_of_the_selection_are_other_runs(tmp_path: Path) -> None:
    """The name of the file is in the recipe, and the patients are in the file."""
    patients = tmp_path / "patients.txt"
    option = f'selection={{patients_file="{patients}"}}'
    text = DECLARATION.replace("seeds =", f"changes = ['{option}']\nseeds =")
    text = text.replace("[0.6, 1.0]", "[1.0]")  # others count steps, of patients in the store
    file = declare(tmp_path, text.replace('"batch_size=2"', f"'{option}'"))
    digests = []
    for lines in ("a\nb\n", "a\nc\n", "b\na\n\n"):
        patients.write_text(lines)
        jobs = [trial.jobs[0] for trial in list_trials(read_experiment(file))]
        digests.append([(job.digest, job.pretraining and job.pretraining.digest) for job in jobs])
    first, other, same = digests
    assert first == same
    for one, changed in zip(first, other, strict=True):
        assert one[0] != changed[0]
        assert one[1] is None or one[1] != changed[1]


def test_an_arm_with_boxes_of_organs_is_another_run(tmp_path: Path) -> None:
    """Its runs follow the content of the table, and the other arm stays as it is."""
    text = DECLARATION.replace("[0, 1]", "[0]").replace("[0.6, 1.0]", "[1.0]")
    text = text[: text.index("[arms.voco]")] + '[arms.boxes]\norgan_boxes = "boxes.csv"\n'
    file, table = declare(tmp_path, text), tmp_path / "boxes.csv"
    found = []
    for content in ("first", "second", "first"):
        table.write_text(content)
        scratch, boxes = (trial.jobs[0] for trial in list_trials(read_experiment(file)))
        assert (scratch.organ_boxes, boxes.organ_boxes) == (None, table)
        found.append((scratch.digest, boxes.digest))
    assert found[0] == found[2] != found[1]
    assert len({scratch for scratch, _ in found}) == 1
    assert found[0][0] != found[0][1]
    with pytest.raises(InputError, match="the head bilstm does not use boxes of organs"):
        run_experiment(file)


@pytest.mark.parametrize("part", ["finetune", "pretrain"])
def test_a_run_that_another_process_trains_is_waited_for(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is begun and has no checkpoint yet is another process's, and no leftover."""
    called = []
    for name in ("pretrain", "finetune", "evaluate"):
        monkeypatch.setattr(running, name, lambda *_, name=name, **__: called.append(name))
    file = declare(tmp_path, DECLARATION.replace("[0.6, 1.0]", "[1.0]"))
    (trial, *_) = [t for t in list_trials(read_experiment(file)) if t.arm == "voco"]
    (job,) = trial.jobs
    assert job.pretraining is not None
    folder = job.folder if part == "finetune" else job.pretraining.folder
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("")
    with ThreadPoolExecutor(1) as pool:
        with own_run(folder):
            waiting = pool.submit(run_job, job)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
            assert called == []
            assert (folder / "run.json").exists()
            digest = job.digest if part == "finetune" else job.pretraining.digest
            (folder / JOB_FILE).write_text(json.dumps({"digest": digest}))
            job.folder.mkdir(exist_ok=True)  # as `finetune` does
        state = waiting.result(timeout=60)
    assert state == ("reused" if part == "finetune" else "trained")
    assert called == ([] if part == "finetune" else ["finetune", "evaluate"])


def test_other_test_patients_are_refused(whole: tuple[Path, ExperimentSummary]) -> None:
    trials = list_trials(read_experiment(whole[0]))
    path = trials[-1].jobs[0].folder / "predictions.parquet"
    kept = path.read_bytes()
    table = pd.read_parquet(path)
    table.loc[table["split"] == "test", "y_liver"] = 0
    table.to_parquet(path, index=False)
    try:
        with pytest.raises(InputError, match="tested on other patients or labels than"):
            compare(trials, "scratch")
    finally:
        path.write_bytes(kept)


def test_single_organ_arms_join_a_classifier_for_each_organ(tmp_path: Path) -> None:
    """Each organ's predictions are those of its own run; Table 2 has both tasks."""
    stores = ", ".join(f'{organ} = "STORE"' for organ in ("kidney", "liver", "spleen"))
    text = DECLARATION[: DECLARATION.index("[arms.voco]")]
    text = text.replace("[0, 1]", "[0]").replace("[0.6, 1.0]", "[1.0]")
    file = declare(tmp_path, f"{text}[arms.single]\norgan_stores = {{{stores}}}\n")
    summary = run_experiment(file)
    assert (summary.trials, summary.trained) == (2, 2)
    (trial,) = [t for t in list_trials(read_experiment(file)) if t.arm == "single"]
    assert [job.recipe.groups for job in trial.jobs] == [("kidney",), ("liver",), ("spleen",)]
    losses = []
    for job in trial.jobs:
        (organ,) = job.recipe.groups
        results = json.loads((job.folder / "metrics.json").read_text())
        losses.append(results["organs"][organ]["loss"])
    (line,) = [score for score in summary.scores if score["arm"] == "single"]
    assert line["rsna_organ_3"]["mean"]["value"] == pytest.approx(np.mean(losses))  # type: ignore[index]
    tables = (tmp_path / "out/tables.md").read_text()
    assert "## Table 2" in tables
    ours = [row for row in tables.split("## Table 2")[1].splitlines() if row.startswith("| ours")]
    assert ["single-organ" in row for row in ours] == [False, True]
    assert "0.3938" in tables  # the paper's single-organ score without 2D-VoCo
