"""An experiment of 3D-to-2D networks: what is planned, trained and reused, and what it says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support import undrawn
from tests.support.project import PROJECT
from tests.support.small_projections import (
    DECLARATION,
    MASKED,
    SERIES,
    SMALL,
    declare_projections,
)
from voco_data.errors import InputError
from voco_data.selection.split_file import read_split, update_split
from voco_data.store import Store, read_record
from voco_models.experiments.declaration import read_experiment
from voco_models.experiments.experiment import ExperimentSummary, run_experiment, run_trial
from voco_models.experiments.projections.jobs import ProjectionTrial, list_projection_trials
from voco_models.experiments.run_folders import JOB_FILE
from voco_models.localisation.boxes import find_box
from voco_models.stages.localisation import load_networks
from voco_models.stages.organ_map_prediction import predict_maps
from voco_models.stages.projection import project
from voco_models.training.history import read_history

ARMS = ("scratch", "scratch_longer", "maximum", "maximum_shuffled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExperimentSummary]:
    """A finished experiment: its declaration and summary."""
    file = declare_projections(tmp_path_factory.mktemp("experiment"))
    return file, run_experiment(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store, for declarations that are not trained."""
    return tmp_path_factory.mktemp("planned")


def trials_of(file: Path) -> list[ProjectionTrial]:
    declared = read_experiment(file)
    return list_projection_trials(declared)  # type: ignore[arg-type]


def trial_of(file: Path, arm: str, masks: int = 2, seed: int = 0) -> ProjectionTrial:
    (trial,) = [t for t in trials_of(file) if (t.arm, t.masks, t.seed) == (arm, masks, seed)]
    return trial


def test_all_runs_are_trained_and_scored(whole: tuple[Path, ExperimentSummary]) -> None:
    file, summary = whole
    assert (summary.trials, summary.trained, summary.reused) == (16, 16, 0)
    runs = pd.read_csv(file.parent / "out/runs.csv")
    assert set(zip(runs["arm"], runs["masks"], runs["seed"], strict=True)) == {
        (arm, masks, seed) for arm in ARMS for masks in (2, 4) for seed in (0, 1)
    }
    made = sorted(path.name.split("-")[0] for path in (file.parent / "out/runs").iterdir())
    assert made == ["pretext"] * 4 + ["project"] * 16  # a pretext for each seed, for all masks
    values = json.loads(json.dumps(summary.to_json()))
    assert len(values["scores"]) == 8


def test_a_second_call_trains_nothing(whole: tuple[Path, ExperimentSummary]) -> None:
    """Also if the file has a number of masks more; then the others are reused."""
    file, summary = whole
    before = {p: p.stat().st_mtime_ns for p in (file.parent / "out/runs").rglob("*")}
    again = run_experiment(file)
    assert (again.trials, again.reused) == (16, 16)
    assert again.scores == summary.scores
    assert before == {p: p.stat().st_mtime_ns for p in (file.parent / "out/runs").rglob("*")}
    more = file.with_name("more.toml")
    more.write_text(file.read_text().replace("[2, 4]", "[2, 3, 4]"))
    planned = run_experiment(more, plan_only=True)
    assert (planned.trials, planned.reused, planned.missing) == (24, 16, 8)


def test_only_the_pretext_sees_scans_without_masks_and_nothing_the_test_patients(
    whole: tuple[Path, ExperimentSummary],
) -> None:
    file, _ = whole
    test = set(read_split(file.parent / "split.json").test)
    for run in (file.parent / "out/runs").iterdir():
        (seen,) = json.loads((run / "patients.json").read_text())["stores"]
        assert not test & set(seen["patients"])
        if run.name.startswith("pretext"):
            assert len(seen["patients"]) == SERIES - len(test)


def test_masks_are_nested_and_the_same_in_all_arms(
    whole: tuple[Path, ExperimentSummary],
) -> None:
    """By the targets that a run has learnt from, and by patients where nothing came before."""
    file, _ = whole
    learnt = {}
    for trial in trials_of(file):
        run = json.loads((trial.job.folder / "run.json").read_text())["provenance"]
        assert run["selection"]["patients"] == trial.masks
        targets = run["targets"], run["selection"]["patients_digest"]
        assert learnt.setdefault((trial.masks, trial.seed), targets) == targets
        if trial.arm == "scratch":
            (seen,) = json.loads((trial.job.folder / "patients.json").read_text())["stores"]
            learnt[trial.masks, trial.seed, "patients"] = set(seen["patients"])
    for seed in (0, 1):
        assert learnt[2, seed, "patients"] < learnt[4, seed, "patients"]
    assert learnt[2, 0] != learnt[2, 1]  # the seed chooses the patients


def test_arms_differ_in_what_came_before_and_in_steps(
    whole: tuple[Path, ExperimentSummary],
) -> None:
    file, _ = whole
    steps = {"scratch": 6, "scratch_longer": 6 + 2, "maximum": 6, "maximum_shuffled": 6}
    for trial in trials_of(file):
        history = read_history(trial.job.folder)
        assert history[-1]["step"] == steps[trial.arm]
        pretext = trial.job.pretext
        if trial.arm.startswith("scratch"):
            assert pretext is None
            continue
        assert pretext is not None
        run = json.loads((pretext.folder / "run.json").read_text())["provenance"]
        assert run["recipe"]["target"] == "maximum"
        assert run["recipe"]["shuffled"] is (trial.arm == "maximum_shuffled")
        assert run["recipe"]["fit"]["seed"] == trial.seed
        assert read_history(pretext.folder)[-1]["step"] == 2
        own = json.loads((trial.job.folder / "run.json").read_text())["provenance"]
        assert own["init"].startswith("run:")


def test_an_arm_with_a_pretext_begins_with_its_weights(
    whole: tuple[Path, ExperimentSummary],
) -> None:
    """The pretext changes the result, and its control changes it in another way."""
    file, _ = whole
    weights = [
        (trial_of(file, arm).job.folder / "networks.safetensors").read_bytes() for arm in ARMS
    ]
    assert len(set(weights)) == len(ARMS)


def by_hand(trial: ProjectionTrial, device: str = "cpu") -> dict[str, Any]:
    """Scores of a run from its maps and the records alone: one series for each patient."""
    store = Store.open(trial.job.store)
    objective, recipe = load_networks(trial.job.folder / "networks.safetensors", store)
    rows = list(trial.series.test_rows)
    maps = predict_maps(objective, store, rows, torch.device(device))
    dice: dict[str, list[float]] = {organ: [] for organ in recipe.organs}
    faces, missed = [], 0
    for row, planes in zip(rows, maps, strict=True):
        record = read_record(store.storage, row)
        assert record is not None
        truths = store.read_organ_maps([row], recipe.organs)
        for i, organ in enumerate(recipe.organs):
            both = []
            for plane, truth in zip(planes, (truths.coronal, truths.sagittal), strict=True):
                inside = plane[i] > 0.5
                overlap = (inside & truth[0, i]).sum()
                both.append(2 * overlap / (inside.sum() + truth[0, i].sum()))
            dice[organ].append(float(np.mean(both)))
            box = find_box(planes[0][i], planes[1][i], record.box_low_mm, record.box_high_mm)
            missed += box is None
            low, high = record.organs[organ]
            for axis, size in enumerate(store.grid):
                for end, place in (
                    (low[axis], None if box is None else box.low_mm[axis]),
                    (high[axis], None if box is None else box.high_mm[axis]),
                ):
                    if 1 <= end <= size - 1:  # the volume does not cut the organ
                        faces.append(size if place is None else abs(place - end))
    return {
        "dice": float(np.mean([np.mean(values) for values in dice.values()])),
        "boundary_mm": float(np.median(faces)),
        "not_found": missed / (len(rows) * len(recipe.organs)),
        "organs": {organ: float(np.mean(values)) for organ, values in dice.items()},
    }


def test_the_figures_are_those_of_the_predicted_maps(
    whole: tuple[Path, ExperimentSummary],
) -> None:
    file, summary = whole
    runs = pd.read_csv(file.parent / "out/runs.csv").set_index(["arm", "masks", "seed"])
    names = ("dice", "boundary_mm", "not_found")
    for line in [line for line in summary.scores if line["masks"] == 2]:
        found = [
            by_hand(trial_of(file, str(line["arm"]), int(str(line["masks"])), seed))
            for seed in (0, 1)
        ]
        for name in names:
            values = [scores[name] for scores in found]
            score: Any = line[name]
            np.testing.assert_allclose(score["by_seed"], values, rtol=1e-9)
            assert score["mean"]["value"] == pytest.approx(np.mean(values))
            for seed, value in enumerate(values):
                place = line["arm"], line["masks"], seed
                assert runs.loc[place, name] == pytest.approx(value)
        for organ, scores in line["organs"].items():  # type: ignore[attr-defined]
            expected = np.mean([one["organs"][organ] for one in found])
            assert scores["dice"] == pytest.approx(expected)


def test_tables_and_page_have_the_scores(whole: tuple[Path, ExperimentSummary]) -> None:
    file, summary = whole
    tables = (file.parent / "out/tables.md").read_text()
    page = (file.parent / "out/report.html").read_text()
    titles = ["Dice ↑", "HD95 (mm) ↓", "Boundary error (mm) ↓", "Organs not found (%) ↓"]
    assert re.findall("^## (.*)$", tables, re.MULTILINE) == [*titles, "Differences", "Organs"]
    dice = tables.split("## HD95")[0]
    for line in summary.scores:
        mean = line["dice"]["mean"]  # type: ignore[index]
        cell = f"{mean['value']:.3f} ({mean['low']:.3f} to {mean['high']:.3f})"
        (row,) = [row for row in dice.splitlines() if row.startswith(f"| {line['arm']} ")]
        assert cell == row.split("|")[2 if line["masks"] == 2 else 3].strip()
        assert cell in page
    gains = tables.split("## Differences")[1].split("##")[0].splitlines()
    assert "Better than scratch by" in gains[2]
    assert len(gains[4:-1]) == 3 * 2 * 4  # arms x masks x scores


def test_the_page_needs_no_network_and_shows_the_maps_of_every_arm(
    whole: tuple[Path, ExperimentSummary],
) -> None:
    with undrawn.drawing():
        run_experiment(whole[0])
    page = (whole[0].parent / "out/report.html").read_text()
    addresses = set(re.findall(r"\w+://[^\"'\s<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<script" not in page
    images = re.findall(r'<image[^>]*href="([^"]*)', page)
    assert all(uri.startswith("data:image/png") for uri in images)
    test = set(trials_of(whole[0])[0].series.test_patients)
    maps = page.split(">Maps</h2>")[1].split("</section>")[0]
    pictures = re.findall(r"<svg.*?</svg>", maps, re.DOTALL)
    assert len(pictures) == min(3, len(test))
    shown = set(re.findall(r'aria-label="Patient (\S+), series', maps))
    assert shown <= test
    for picture in pictures:
        texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", picture))
        assert {"mask", *ARMS, "liver", "spleen"} <= texts
        assert {"x, mm (to the left)", "y, mm (to the back)", "z, mm (to the head)"} <= texts
        assert picture.count("<image") == 2 * (1 + len(ARMS))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A declaration of the arm `maximum`, with one number of masks and one seed."""
    text = DECLARATION.replace("[2, 4]", "[3]").replace("[0, 1]", "[0]")
    head, rest = text.split("[arms.scratch]")[0], text[text.index("[arms.maximum]") :]
    rest = rest[: rest.index("[arms.maximum_shuffled]")]
    return declare_projections(tmp_path, head.replace('"scratch"', '"maximum"') + rest)


def write_images(folder: Path, store: Store) -> Path:
    """A second image of every series but the last three, seen from the front: a mean."""
    for row in store.rows[:-3]:
        series = folder / str(store.catalogue.set_index("row").loc[row, "series_uid"])
        series.mkdir(parents=True)
        image = store.read(int(row)).astype(np.float32).mean(axis=1) / 255
        np.save(series / "coronal.npy", image[::-1])
    return folder


def test_an_arm_may_learn_second_images_from_files(single: Path) -> None:
    """Another image is another run, whatever the name of its file."""
    text = single.read_text().replace('pretext = "maximum"', 'pretext = "image"\nimages = "images"')
    single.write_text(text)
    with pytest.raises(InputError, match=r"images .*: expected a folder of images or a table"):
        run_experiment(single, plan_only=True)
    (store_path,) = (single.parent / "stores").glob("*.zarr")
    images = write_images(single.parent / "images", Store.open(store_path))
    (trial,) = trials_of(single)
    assert run_trial(trial) == "trained"
    assert trial.job.pretext is not None
    run = json.loads((trial.job.pretext.folder / "run.json").read_text())["provenance"]
    assert run["recipe"]["target"] == "image"
    assert run["images"]["coronal"] > 0
    images.rename(single.parent / "moved")
    single.write_text(text.replace('"images"', '"moved"'))
    assert run_trial(trials_of(single)[0]) == "reused"
    image = next((single.parent / "moved").rglob("*.npy"))
    np.save(image, np.load(image)[::-1])
    assert trials_of(single)[0].job.digest != trial.job.digest


def test_a_stopped_trial_is_continued(single: Path) -> None:
    """Stopped in the pretext, before the first checkpoint, in the training, before the scores: the
    same weights and scores as undisturbed."""
    (trial,) = trials_of(single)
    job, pretext = trial.job, trial.job.pretext
    assert pretext is not None
    assert run_trial(trial) == "trained"
    weights = (job.folder / "networks.safetensors").read_bytes()
    scores = pd.read_parquet(job.folder / "organ_scores.parquet")

    def check() -> None:
        assert (job.folder / "networks.safetensors").read_bytes() == weights
        found = pd.read_parquet(job.folder / "organ_scores.parquet")
        pd.testing.assert_frame_equal(found, scores)
        assert run_trial(trial) == "reused"

    shutil.rmtree(job.folder)
    shutil.rmtree(pretext.folder)
    project([job.store], pretext.folder, recipe=pretext.recipe, split=job.split, max_steps=1)
    assert run_trial(trial) == "continued"
    check()
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    (job.folder / "run.json").write_text("{}")  # and no checkpoint
    assert run_trial(trial) == "trained"
    check()
    shutil.rmtree(job.folder)
    project(
        [job.store],
        job.folder,
        init=pretext.folder,
        recipe=job.recipe,
        split=job.split,
        max_steps=4,
    )
    assert run_trial(trial) == "continued"
    check()
    for name in (JOB_FILE, "organ_scores.parquet", "face_errors.parquet"):
        (job.folder / name).unlink()
    assert run_trial(trial) == "continued"
    check()


def test_scores_of_other_series_are_refused(whole: tuple[Path, ExperimentSummary]) -> None:
    file, _ = whole
    path = trial_of(file, "maximum").job.folder / "organ_scores.parquet"
    kept = path.read_bytes()
    pd.read_parquet(path).iloc[:-1].to_parquet(path, index=False)
    try:
        with pytest.raises(InputError, match="scored on other series or organs than") as caught:
            run_experiment(file)
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(kept)


def test_without_a_split_one_is_made_of_all_patients(folder: Path) -> None:
    text = SMALL.replace('split = "split.json"', "").replace('out = "out"', 'out = "made"')
    file = declare_projections(folder, text)
    planned = run_experiment(file, plan_only=True)
    assert (planned.trials, planned.missing) == (1, 1)
    split = read_split(folder / "made/split.json")
    assert len(split.groups) == SERIES
    before = (folder / "made/split.json").read_bytes()
    run_experiment(file, plan_only=True)
    assert (folder / "made/split.json").read_bytes() == before


def test_fractions_of_the_masks_are_numbers_of_patients(folder: Path) -> None:
    text = SMALL.replace("masks = [2]", "mask_fractions = [0.01, 0.34, 1.0]")
    file = declare_projections(folder, text)
    trials = trials_of(file)
    learnt = len(trials[0].series.learnt)
    assert learnt == MASKED - len(trials[0].series.test_rows)
    assert [trial.masks for trial in trials] == [1, round(0.34 * learnt), learnt]
    text = SMALL.replace("masks = [2]", "")
    assert [trial.masks for trial in trials_of(declare_projections(folder, text))] == [learnt]


def test_runs_are_told_apart_by_all_that_decides_them(folder: Path) -> None:
    """Arm, number of masks, seed and split, not the name of its file. A pretext is shared by all
    numbers of masks."""
    trials = trials_of(declare_projections(folder))
    assert len({trial.job.digest for trial in trials}) == 16
    pretexts = {
        (trial.arm, trial.seed, trial.job.pretext.digest)
        for trial in trials
        if trial.job.pretext is not None
    }
    assert len(pretexts) == len({digest for _, _, digest in pretexts}) == 4
    shutil.copy(folder / "split.json", folder / "copy.json")
    renamed = declare_projections(folder, DECLARATION.replace('"split.json"', '"copy.json"'))
    assert [t.job.digest for t in trials_of(renamed)] == [t.job.digest for t in trials]
    update_split(trials[0].job.store, folder / "other.json", test_share=0.4, n_folds=2)
    other = declare_projections(folder, DECLARATION.replace('"split.json"', '"other.json"'))
    assert not {t.job.digest for t in trials_of(other)} & {t.job.digest for t in trials}


def test_the_example_of_the_documents_can_be_read(tmp_path: Path) -> None:
    text = (PROJECT / "docs/experiments.md").read_text().split("## Experiments of projections")[1]
    (tmp_path / "e.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    declared: Any = read_experiment(tmp_path / "e.toml")
    assert list(declared.arms) == [*ARMS, "unet_2d"]
    assert declared.arms["scratch_longer"].steps_of == "maximum"
    assert declared.store.startswith(str(tmp_path))  # paths are relative to the file


ARM = "[arms.scratch]\n"


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('stage = "project"', 'stage = "predict"', "stage: expected finetune or project, got"),
        ('reference = "scratch"', "", "reference: expected a value, got nothing"),
        ('"scratch"', '"best"', "one of the arms scratch, scratch_longer, maximum.*got 'best'"),
        ("masks = [2, 4]", "masks = [2, 50]", r"masks: expected at most \d+, the patients with"),
        ("masks = [2, 4]", "masks = [2, 2]", "masks must be one or more different numbers"),
        ("masks = [2, 4]", "masks = [0]", "masks must be >= 1"),
        ("masks = [2, 4]", "masks = [2]\nmask_fractions = [0.5]", "masks or mask_fractions, not"),
        ("masks = [2, 4]", "mask_fractions = [0.5, 1.5]", "mask_fractions must be above 0 and at"),
        ("masks = [2, 4]", "mask_fractions = [0.1, 0.11]", "expected different numbers of the"),
        ("masks = [2, 4]", "label_fractions = [0.5]", "no option label_fractions; expected some"),
        ("seeds = [0, 1]", "seeds = []", "seeds must be one or more different numbers"),
        (ARM, "[arms.scratch]\ninit = 1\n", "no option arms.scratch.init; expected some of"),
        ('pretext = "maximum"', 'pretext = "median"', "pretext: expected mean, .*got 'median'"),
        ('pretext = "maximum"', 'pretext = "organs"', "pretext: expected mean, .*got 'organs'"),
        ('pretext = "maximum"', 'pretext = "image"', "the pretext image, and no other, needs im"),
        (ARM, f'{ARM}images = "i"\n', "needs images; got images and the pretext none"),
        (ARM, f"{ARM}shuffled = true\n", "arms.scratch.shuffled has no effect without pretext"),
        (ARM, f'{ARM}pretext_changes = ["batch_size=2"]\n', "pretext_changes has no effect"),
        (
            'steps_of = "maximum"',
            'steps_of = "scratch"',
            "steps_of: expected an arm with a pre",
        ),
        ('steps_of = "maximum"', 'steps_of = "maximum"\npretext = "mean"', "pretext or steps_of"),
        (
            'steps_of = "maximum"',
            'steps_of = "maximum"\nchanges = ["fit.total_steps=7"]',
            "fit.total_steps has no effect here; the arm has the steps of maximum",
        ),
        (ARM, f'{ARM}changes = ["fit.seed=1"]\n', "fit.seed has no effect here; give seeds"),
        (ARM, f'{ARM}changes = ["masks=1"]\n', "masks has no effect here; give masks"),
        (ARM, f'{ARM}changes = ["target=mean"]\n', "target has no effect here; give pretext"),
        (ARM, f'{ARM}changes = ["organs=[]"]\n', "organs has no effect here; all arms"),
        (ARM, f"{ARM}changes = ['selection.layouts=[\"a\"]']\n", "selection.layouts has no effect"),
        (
            'pretext_changes = ["fit.total_steps=2"]',
            'pretext_changes = ["network=fpn"]',
            "network has no effect here; both runs of an arm have the same",
        ),
        (ARM, f'{ARM}changes = ["network=unet"]\n', "network must be one of fpn"),
        (ARM, f'{ARM}changes = ["batchsize=2"]\n', "no option batchsize; did you mean batch_size"),
        ('"liver", "spleen"', '"bowel"', "none of the 5 test patients .* has a mask of bowel"),
        ('split = "split.json"', 'split = "no.json"', "no.json: cannot read the split"),
        ('recipe = "tiny"', 'recipe = "tinny"', "expected one of default, tiny"),
        ("seeds =", "seeds = [", "cannot be read as TOML"),
    ],
)
def test_a_declaration_that_is_not_possible_is_one_line(
    folder: Path, old: str, new: str, match: str
) -> None:
    assert old in DECLARATION
    file = declare_projections(folder, DECLARATION.replace(old, new))
    with pytest.raises(InputError, match=match) as caught:
        run_experiment(file)
    assert "\n" not in str(caught.value)
    assert not (folder / "out/runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (ARM, f'{ARM}[arms.other]\nchanges = ["widths=[2, 2]"]\n', "expected 5 widths"),
        ("shuffled = true", 'shuffled = true\nchanges = ["batch_size=1"]', "batch_size must be"),
        (
            'pretext_changes = ["fit.total_steps=2"]',
            "pretext_changes = ['selection.layouts=[\"no\"]']",
            "no series of the layout no",
        ),
    ],
)
@pytest.mark.parametrize("plan_only", [False, True])
def test_a_run_that_cannot_be_trained_is_found_before_the_first(
    folder: Path, old: str, new: str, match: str, plan_only: bool
) -> None:
    file = declare_projections(folder, DECLARATION.replace(old, new))
    with pytest.raises(InputError, match=match) as caught:
        run_experiment(file, plan_only=plan_only)
    assert "\n" not in str(caught.value)
    assert not (folder / "out/runs").exists()
