"""Who is learnt from: arms by layout, the test patients that pretraining leaves out, the guard."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.small_finetune import GRID, RECIPE, grades_of, write_labels
from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import QUICK
from voco_data.errors import InputError
from voco_data.selection.exposure import SeenPatients
from voco_data.selection.series import Selection
from voco_data.selection.split import Split
from voco_data.selection.split_file import read_split, update_split
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_models.evaluation import report
from voco_models.stages.evaluation import evaluate
from voco_models.stages.finetune_plan import make_plan
from voco_models.stages.finetuning import finetune
from voco_models.stages.pretrain_series import select_pretraining_series
from voco_models.stages.pretraining import pretrain
from voco_models.training import checkpoint

RATIC, FLARE = 20, 6
PRETRAIN_GRID = (4, 96, 96)


def two_layouts(record: Record) -> Record:
    """20 patients of RATIC, then 6 of FLARE; equal contents in the stores of both grids."""
    layout = "ratic" if record.row < RATIC else "flare"
    return dataclasses.replace(record, layout=layout, content_digest=f"scan {record.row}")


@dataclasses.dataclass(frozen=True)
class Root:
    pretrain: Store
    finetune: Store
    labels: Path
    split: Path

    @property
    def patients(self) -> Split:
        return read_split(self.split)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    folder = tmp_path_factory.mktemp("root")
    volumes = random_volumes(RATIC + FLARE, PRETRAIN_GRID)
    small = random_volumes(RATIC + FLARE, GRID)
    stores = [
        make_store(folder, volumes, profile="pretrain", change=two_layouts),
        make_store(folder, small, profile="finetune", change=two_layouts),
    ]
    ids = sorted(stores[1].catalogue["patient_id"])[:RATIC]
    labels = write_labels(folder / "train.csv", ids, grades_of(RATIC))
    update_split(stores[1], folder / "split.json", labels, n_folds=2)
    return Root(*stores, labels, folder / "split.json")


RATIC_ONLY = dataclasses.replace(RECIPE, selection=Selection(layouts=("ratic",)), epochs=1)
SHORT: dict[str, Any] = {"recipe": QUICK, "device": "cpu", "max_steps": 1}
QUICK_FINETUNE: dict[str, Any] = {"recipe": RATIC_ONLY, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(root: Root, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pretraining runs: with the split, without one, and transductive."""
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, dict[str, Any]] = {
        "held_out": {"split": root.split},
        "whole": {},
        "transductive": {"split": root.split, "transductive": True},
    }
    for name, more in options.items():
        pretrain([root.pretrain.path], folder / name, **SHORT, **more)
    return {name: folder / name for name in options}


# Pretraining


def seen_ids(run: Path) -> set[str]:
    seen = SeenPatients.read(run)
    assert seen is not None
    return {patient for store in seen.stores for patient in store.contents}


def test_pretraining_leaves_the_test_patients_out(root: Root, runs: dict[str, Path]) -> None:
    everyone = set(root.pretrain.catalogue["patient_id"])
    assert seen_ids(runs["held_out"]) == everyone - set(root.patients.test)
    assert seen_ids(runs["whole"]) == everyone
    assert seen_ids(runs["transductive"]) == everyone
    record = checkpoint.read_run(runs["held_out"])["provenance"]
    assert record["split"] == root.patients.digest
    assert record["selection"]["left_out"] == {"test": 4}
    assert record["selection"]["volumes"] == 22
    assert record["selection"]["transductive"] is False
    assert record["selection"]["layouts"] == {"flare": 6, "ratic": 16}
    assert read_split(runs["held_out"] / "split.json") == root.patients
    assert not (runs["whole"] / "split.json").exists()
    assert checkpoint.read_run(runs["transductive"])["provenance"]["selection"]["transductive"]
    pages = {name: (run / "report.html").read_text() for name, run in runs.items()}
    assert "learnt from: the run is transductive" in pages["transductive"]
    assert "no split was given" in pages["whole"]
    assert "left out, 4 volumes" in pages["held_out"]


@pytest.mark.parametrize(
    ("layouts", "volumes"), [(("ratic",), 16), (("flare",), 6), ((), 22), (("flare", "ratic"), 22)]
)
def test_the_three_arms_of_the_paper_are_selections_of_one_root(
    root: Root, layouts: tuple[str, ...], volumes: int
) -> None:
    chosen = select_pretraining_series(
        [root.pretrain], Selection(layouts=layouts), root.patients, transductive=False
    )
    assert len(chosen.series) == volumes
    assert set(chosen.series["layout"]) == (set(layouts) or {"ratic", "flare"})
    assert set(chosen.series["patient_id"]).isdisjoint(root.patients.test)


def test_an_arm_is_chosen_with_a_change_of_the_recipe(root: Root, tmp_path: Path) -> None:
    changes = ["selection.layouts=['flare']"]
    summary = pretrain([root.pretrain.path], tmp_path / "flare", changes=changes, **SHORT)
    assert (summary.volumes, summary.patients, summary.left_out) == (6, 6, {"not selected": 20})
    weighted = ["selection.weights={flare=3.0}"]
    pretrain([root.pretrain.path], tmp_path / "weighted", changes=weighted, **SHORT)
    recipe = checkpoint.read_run(tmp_path / "weighted")["provenance"]["recipe"]
    assert recipe["selection"]["weights"] == {"flare": 3.0}
    with pytest.raises(InputError, match=r"cannot resume.*recipe\.selection"):
        pretrain(
            [root.pretrain.path], tmp_path / "weighted", recipe=QUICK, device="cpu", resume=True
        )


def test_equal_weights_train_as_none(root: Root, runs: dict[str, Path], tmp_path: Path) -> None:
    equal = ["selection.weights={flare=2.0,ratic=2.0}"]
    pretrain([root.pretrain.path], tmp_path / "run", changes=equal, **SHORT)
    losses = [pd.read_csv(run / "history.csv") for run in (tmp_path / "run", runs["whole"])]
    pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in losses))


def test_a_weight_is_of_the_series_of_the_layout(root: Root) -> None:
    chosen = select_pretraining_series(
        [root.pretrain], Selection(weights={"flare": 3.0}), None, transductive=False
    )
    assert chosen.weights is not None
    assert chosen.weights.tolist() == [1.0] * RATIC + [3.0] * FLARE


def test_naming_test_patients_fails_with_their_number(root: Root, tmp_path: Path) -> None:
    named = (*root.patients.test[:3], *root.patients.folds[0][:4])
    recipe = dataclasses.replace(QUICK, selection=Selection(patients=named))
    options = SHORT | {"recipe": recipe}
    with pytest.raises(InputError, match="names 3 of the split's 4 test patients"):
        pretrain([root.pretrain.path], tmp_path / "run", split=root.split, **options)
    assert not (tmp_path / "run").exists()
    kept = pretrain(
        [root.pretrain.path], tmp_path / "run", split=root.split, transductive=True, **options
    )
    assert kept.volumes == 7
    assert kept.transductive


def test_a_store_of_test_patients_alone_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(2, PRETRAIN_GRID))
    old = {"seed": 0, "test": sorted(store.catalogue["patient_id"]), "folds": [["a"], ["b"]]}
    (tmp_path / "split.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match=r"none of the 2 volumes is left \(0 are not selected, 2"):
        pretrain([store.path], tmp_path / "run", split=tmp_path / "split.json", **SHORT)
    assert not (tmp_path / "run").exists()


def test_bad_selections_write_nothing(root: Root, tmp_path: Path) -> None:
    unknown = SHORT | {
        "recipe": dataclasses.replace(QUICK, selection=Selection(layouts=("flair",)))
    }
    with pytest.raises(InputError, match="no series of the layout flair"):
        pretrain([root.pretrain.path], tmp_path / "run", **unknown)
    with pytest.raises(InputError, match="transductive: give --split"):
        pretrain([root.pretrain.path], tmp_path / "run", transductive=True, **SHORT)
    with pytest.raises(InputError, match="cannot read the split"):
        pretrain([root.pretrain.path], tmp_path / "run", split=tmp_path / "none", **SHORT)
    assert not (tmp_path / "run").exists()


def test_a_resumed_pretraining_has_the_split_of_its_start(root: Root, tmp_path: Path) -> None:
    run, options = tmp_path / "run", {"recipe": QUICK, "device": "cpu"}
    split = tmp_path / "split.json"
    split.write_text(root.split.read_text())
    pretrain([root.pretrain.path], run, split=split, max_steps=2, **options)
    other = tmp_path / "other.json"
    update_split(root.finetune, other, root.labels, n_folds=2, seed=9)
    with pytest.raises(InputError, match="cannot resume: the split differs from"):
        pretrain([root.pretrain.path], run, split=other, resume=True, **options)
    with pytest.raises(InputError, match=r"cannot resume.*selection"):
        pretrain([root.pretrain.path], run, transductive=True, resume=True, **options)
    update_split(root.finetune, split)  # appends the patients of FLARE
    assert len(read_split(split).groups) == RATIC + FLARE
    pretrain([root.pretrain.path], run, split=split, max_steps=3, resume=True, **options)
    summary = pretrain([root.pretrain.path], run, resume=True, **options)
    assert (summary.volumes, summary.last_step) == (22, 6)


# Fine-tuning


def test_a_run_takes_the_split_and_keeps_it(root: Root, tmp_path: Path) -> None:
    summary = finetune(
        root.finetune, root.labels, tmp_path / "run", split=root.split, **QUICK_FINETUNE
    )
    assert (summary.test_patients, summary.transductive) == (4, None)
    assert read_split(tmp_path / "run" / "split.json") == root.patients
    assert checkpoint.read_run(tmp_path / "run")["split"] == root.patients.digest
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert set(table.loc[table["split"] == "test", "patient_id"]) == set(root.patients.test)


def test_the_split_that_a_run_made_serves_the_next_run(root: Root, tmp_path: Path) -> None:
    finetune(root.finetune, root.labels, tmp_path / "a", max_steps=1, **QUICK_FINETUNE)
    made = tmp_path / "a" / "split.json"
    # It is what `voco split` makes with the same seed, folds and patients.
    assert read_split(made).groups == root.patients.groups
    finetune(root.finetune, root.labels, tmp_path / "b", max_steps=1, split=made, **QUICK_FINETUNE)
    assert (tmp_path / "b" / "split.json").read_text() == made.read_text()


def test_a_corrected_label_moves_nobody(root: Root, tmp_path: Path) -> None:
    ids = sorted(root.patients.groups)
    corrected = write_labels(tmp_path / "train.csv", ids, grades_of(RATIC, seed=8))
    plans = [
        make_plan(root.finetune, labels, RATIC_ONLY, init="scratch")
        for labels in (root.labels, corrected)
    ]
    assert plans[0].split.groups == plans[1].split.groups
    assert plans[0].labels.sha256 != plans[1].labels.sha256


def test_a_split_that_lacks_a_patient_says_how_to_append(root: Root, tmp_path: Path) -> None:
    ids = sorted(root.patients.groups)
    fewer = write_labels(tmp_path / "few.csv", ids[2:], grades_of(RATIC - 2))
    update_split(root.finetune, tmp_path / "split.json", fewer, n_folds=2)
    options = QUICK_FINETUNE | {"split": tmp_path / "split.json"}
    with pytest.raises(InputError, match=r"lacks 2 of the store's 20 labelled.*voco split STORE"):
        finetune(root.finetune, root.labels, tmp_path / "run", **options)
    update_split(root.finetune, tmp_path / "split.json", root.labels)
    assert finetune(root.finetune, root.labels, tmp_path / "run", max_steps=1, **options).steps == 1
    five = QUICK_FINETUNE | {"recipe": dataclasses.replace(RATIC_ONLY, n_folds=5)}
    with pytest.raises(InputError, match=r"it has 2 folds, the recipe 5; give --set n_folds=2"):
        finetune(root.finetune, root.labels, tmp_path / "x", **five, split=root.split)


def test_a_fold_never_trains_on_a_volume_of_a_held_out_patient(root: Root, tmp_path: Path) -> None:
    """A link that is found after the split: nobody moves, and the shared volume is left out."""
    test, (first, second) = root.patients.test, root.patients.folds
    pairs = {test[0]: first[0], first[1]: second[0]}

    def link(record: Record) -> Record:
        record = two_layouts(record)
        shared = {p: f"shared {i}" for i, pair in enumerate(pairs.items()) for p in pair}
        content = shared.get(record.patient_id, record.content_digest)
        return dataclasses.replace(record, content_digest=content)

    store = make_store(tmp_path, random_volumes(RATIC + FLARE, GRID), change=link)
    plan = make_plan(store, root.labels, RATIC_ONLY, init="scratch", split=root.patients)
    assert plan.split.groups == root.patients.groups
    # The model of fold 0 trains on fold 1: without the volume that fold 0 has too.
    trained = [set(plan.training_series(fold).patients) for fold in (0, 1)]
    assert trained[0] == set(second) - {second[0]}
    assert trained[1] == set(first) - {first[0], first[1]}
    chosen = select_pretraining_series([store], Selection(), root.patients, transductive=False)
    assert set(chosen.series["patient_id"]).isdisjoint({*test, first[0]})
    assert first[1] in set(chosen.series["patient_id"])


def test_layouts_select_what_is_trained_and_tested_on(root: Root) -> None:
    whole = dataclasses.replace(RATIC_ONLY, selection=Selection())
    with pytest.raises(InputError, match="6 of the store's 26 patients have no label"):
        make_plan(root.finetune, root.labels, whole, init="scratch")
    plan = make_plan(root.finetune, root.labels, RATIC_ONLY, init="scratch", split=root.patients)
    assert plan.provenance["selection"]["layouts"] == {"ratic": RATIC}
    weighted = dataclasses.replace(
        RATIC_ONLY, selection=Selection(layouts=("ratic",), weights={"ratic": 2.0})
    )
    plan = make_plan(root.finetune, root.labels, weighted, init="scratch")
    assert plan.weights_of(plan.series) is None
    few = dataclasses.replace(
        RATIC_ONLY, selection=Selection(patients=(*root.patients.folds[0], *root.patients.folds[1]))
    )
    with pytest.raises(InputError, match="none of the 16 patients is in the test set"):
        make_plan(root.finetune, root.labels, few, init="scratch", split=root.patients)


# The guard, and what is printed of it


def refuse(root: Root, run: Path, out: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        finetune(root.finetune, root.labels, out, init=run, split=root.split, **QUICK_FINETUNE)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_backbone_that_has_seen_test_patients_is_refused(
    root: Root, runs: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("whole", "transductive"):
        refuse(root, runs[name], tmp_path / name, "pretrained on 4 of the 4 test patients")


def test_copies_of_test_patients_are_seen_by_their_volumes(root: Root, tmp_path: Path) -> None:
    def rename(record: Record) -> Record:
        record = two_layouts(record)
        return dataclasses.replace(record, patient_id=f"other {record.row}")

    volumes = random_volumes(RATIC + FLARE, PRETRAIN_GRID)
    elsewhere = make_store(tmp_path / "elsewhere", volumes, change=rename)
    pretrain([elsewhere.path], tmp_path / "run", split=root.split, **SHORT)
    refuse(root, tmp_path / "run", tmp_path / "out", "pretrained on 4 of the 4 test patients")


@pytest.mark.parametrize(
    ("name", "transductive", "seen", "text"),
    [
        ("held_out", False, 0, "pretrained on none of the 4 test patients"),
        ("whole", True, 4, "pretrained on 4 of the 4 test patients"),
        ("unknown", None, None, "unknown whether the backbone was pretrained on any of the 4"),
    ],
)
def test_scores_say_what_pretraining_has_seen(
    root: Root,
    runs: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    transductive: bool | None,
    seen: int | None,
    text: str,
) -> None:
    init = runs.get(name, tmp_path / "copy")
    if name == "unknown":  # as a run of an older version
        init.mkdir()
        (init / "backbone.pt").write_bytes((runs["held_out"] / "backbone.pt").read_bytes())
    out = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        summary = finetune(
            root.finetune, root.labels, out, init=init, split=root.split,
            transductive=name == "whole", **QUICK_FINETUNE,
        )  # fmt: skip
    assert (text in caplog.text) is (name != "held_out")
    assert (summary.transductive, summary.pretrained_on_test_patients) == (transductive, seen)
    scores = json.loads(json.dumps(evaluate(out).to_json()))
    assert (scores["transductive"], scores["pretrained_on_test_patients"]) == (transductive, seen)
    assert scores["test_patients"] == 4
    page = " ".join((out / "report.html").read_text().split())
    assert text in page
    assert ("the scores are transductive" in page) is (name == "whole")
    assert "If these volumes" not in page
    assert report.read_results(out)["pretraining"]["transductive"] is transductive
    assert SeenPatients.is_written(out) is (name != "unknown")


def test_a_file_of_other_patients_is_not_believed(
    root: Root, runs: dict[str, Path], tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "backbone.pt").write_bytes((runs["whole"] / "backbone.pt").read_bytes())
    (mixed / "patients.json").write_text((runs["held_out"] / "patients.json").read_text())
    plan = make_plan(root.finetune, root.labels, RATIC_ONLY, init=mixed, split=root.patients)
    assert plan.exposure.seen is None


def test_runs_of_older_versions_are_evaluated_and_resumed(root: Root, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune(root.finetune, root.labels, run, split=root.split, max_steps=1, **QUICK_FINETUNE)
    description = checkpoint.read_run(run)
    for entry in ("exposure", "selection"):
        del description[entry]
    checkpoint.write_run(run, description)
    old = {"seed": 0, "test": root.patients.test, "folds": root.patients.folds}
    (run / "split.json").write_text(json.dumps(old, sort_keys=True, separators=(",", ":")))
    assert finetune(root.finetune, root.labels, run, resume=True, **QUICK_FINETUNE).finished
    assert checkpoint.read_run(run)["split"] == root.patients.digest


def test_a_pretraining_of_an_older_version_resumes(root: Root, tmp_path: Path) -> None:
    run, options = tmp_path / "run", {"recipe": QUICK, "device": "cpu"}
    pretrain([root.pretrain.path], run, max_steps=2, **options)
    saved = checkpoint.load(run / checkpoint.CHECKPOINT)
    del saved["provenance"]["selection"]
    checkpoint.save(run / checkpoint.CHECKPOINT, saved)
    checkpoint.write_run(run, checkpoint.read_run(run))  # without digests
    (run / "patients.json").unlink()
    summary = pretrain([root.pretrain.path], run, max_steps=3, resume=True, **options)
    assert summary.last_step == 3
    assert len(seen_ids(run)) == RATIC + FLARE
    with pytest.raises(InputError, match="cannot resume: split was None"):
        pretrain([root.pretrain.path], run, split=root.split, resume=True, **options)


def test_weights_hold_for_training_alone(root: Root, tmp_path: Path) -> None:
    ids = sorted(root.finetune.catalogue["patient_id"])
    labels = write_labels(tmp_path / "train.csv", ids, grades_of(RATIC + FLARE))
    recipes = [
        dataclasses.replace(RATIC_ONLY, selection=Selection(weights=weights))
        for weights in ({}, {"flare": 4.0})
    ]
    tables = []
    for number, recipe in enumerate(recipes):
        run = tmp_path / f"run-{number}"
        summary = finetune(root.finetune, labels, run, recipe=recipe, device="cpu")
        assert summary.finished
        tables.append(pd.read_parquet(run / "predictions.parquet"))
    names = ["split", "patient_id", "series_uid"]
    names = [name for name in names if name in tables[0]]
    pd.testing.assert_frame_equal(tables[0][names], tables[1][names])
    assert not tables[0].equals(tables[1])


def test_two_ids_of_one_patient_are_held_out_together(root: Root, tmp_path: Path) -> None:
    """A store has a patient under the id and under its pseudonym, with different scans."""

    def rename(record: Record) -> Record:
        hidden = record.row % 2  # rows 0 and 1 are of one patient, 2 and 3, ...
        name = f"{'hidden' if hidden else 'plain'}-{record.row // 2:02d}"
        return dataclasses.replace(record, patient_id=name)

    def pseudonymise(patient: str) -> str:
        return patient.replace("plain", "hidden")

    store = make_store(tmp_path, random_volumes(24, GRID), change=rename)
    ids = [f"plain-{number:02d}" for number in range(12)]
    labels = write_labels(tmp_path / "train.csv", ids, grades_of(12))
    file = tmp_path / "split.json"
    update_split(store, file, labels, n_folds=2, pseudonymise=pseudonymise)
    split = read_split(file)
    assert all(split.groups[name] == split.groups[pseudonymise(name)] for name in ids)
    chosen = select_pretraining_series([store], Selection(), split, transductive=False)
    assert len(chosen.series) == 24 - len(split.test)
    plain = dataclasses.replace(RECIPE, epochs=1)
    plan = make_plan(store, labels, plain, init="scratch", split=split, pseudonymise=pseudonymise)
    held_out = plan.series.select(plan.split.test)
    assert len(held_out) == len(split.test)
    assert set(held_out.rows).isdisjoint(plan.training_series(0).rows)
