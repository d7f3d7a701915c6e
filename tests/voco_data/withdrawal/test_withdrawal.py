"""A patient who withdrew: no file says the name, nobody else is touched, whenever it is killed."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from flows.command import main
from tests.support.hidden_patient import (
    PATIENTS,
    Pipeline,
    everything_in,
    make_pipeline,
    patient_id,
)
from tests.support.object_server import use
from tests.support.s3_server import BUCKET, S3Server
from voco_data.errors import InputError
from voco_data.selection.split_file import read_split
from voco_data.storage import locks
from voco_data.storage.local import LocalStorage
from voco_data.storage.urls import open_storage
from voco_data.store.reader import Store
from voco_data.withdrawal.patient import RUN_LOCKS, forget_everywhere
from voco_data.withdrawal.taint import is_tainted
from voco_models.evaluation import looks
from voco_models.networks.weight_files import read_header, read_weights
from voco_models.stages.comparison import compare_runs
from voco_models.stages.evaluation import evaluate
from voco_models.stages.finished_run import read_finished_run
from voco_models.stages.initial_weights import load_initial_weights
from voco_models.stages.prediction import prepare_prediction
from voco_models.tracking.run_verification import verify_runs
from voco_models.training import checkpoint, run_lock

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "lab")


@pytest.fixture
def lab(made: Pipeline, tmp_path: Path) -> Pipeline:
    return made.copy(tmp_path / "lab")


def forget(lab: Pipeline, patient: str, **options: Any) -> dict[str, Any]:
    receipt = lab.folder / "receipt.json"
    return forget_everywhere(lab.root, patient, runs=[lab.runs], receipt=receipt, **options)


def pseudonyms_in_other_roots(lab: Pipeline, patient: str) -> list[str]:
    """What the private maps of the roots of predictions say of the patient."""
    tables = [pd.read_parquet(path) for path in lab.runs.rglob("private/ids.parquet")]
    return [
        pseudonym
        for table in tables
        for pseudonym, original in zip(table["pseudonym"], table["original"], strict=True)
        if re.search(rf"{patient}(?!\d)", original)
    ]


def files_that_say(folder: Path, *words: str) -> set[str]:
    """Files with one of the words, which is not the beginning of a longer number."""
    pattern = re.compile("|".join(rf"{re.escape(word)}(?!\d)" for word in words))
    return {name for name, text in everything_in(folder).items() if pattern.search(text)}


@pytest.mark.parametrize("kind", ["trained", "tested"])
def test_nothing_names_the_patient_and_nobody_else_is_touched(lab: Pipeline, kind: str) -> None:
    patient = getattr(lab, kind)
    words = [patient, *pseudonyms_in_other_roots(lab, patient)]
    assert len(words) > 2
    before = everything_in(lab.folder)
    named = files_that_say(lab.folder, *words)
    assert len(named) > 40
    folders = [lab.runs / "pretrain", lab.runs / "finetune"]
    assert [run.result for run in verify_runs(folders).runs] == ["ok", "ok"]
    told = forget(lab, patient, yes=True)
    assert [run.result for run in verify_runs(folders).runs] == ["ok", "ok"]
    assert files_that_say(lab.folder, *words) == set()
    assert [each for each in told["left"] if str(lab.folder) in each["file"]] == []
    after = everything_in(lab.folder)
    features = {name for name in before if name.startswith("runs/") and "tiny-mine" in name}
    is_of_stores = re.compile(r"(^|/)stores/")
    changed = {
        name for name in before if after.get(name) != before[name] and not is_of_stores.search(name)
    }
    assert changed <= named | features
    for name in before:
        if "tiny-foreign" in name or "stopped-elsewhere" in name or "study-of-another" in name:
            assert after[name] == before[name]


def test_all_others_keep_their_rows_and_their_groups(lab: Pipeline) -> None:
    others = {patient_id(n) for n in range(PATIENTS)} - {lab.trained}
    before = read_split(lab.runs / "split.json").groups
    forget(lab, lab.trained, yes=True)
    groups = read_split(lab.runs / "split.json").groups
    assert groups == {patient: before[patient] for patient in others}
    assert read_split(lab.runs / "finetune" / "split.json").groups == groups
    for table in ("labels.parquet", "predictions.parquet"):
        assert set(pd.read_parquet(lab.runs / "finetune" / table)["patient_id"]) == others
    assert set(pd.read_csv(lab.runs / "train.csv")["patient_id"]) == others
    assert set(pd.read_csv(lab.runs / "predicted" / "submission.csv")["patient_id"]) == others
    pages = {path.stem for path in (lab.runs / "predicted" / "patients").iterdir()}
    assert pages == others
    scores = pd.read_parquet(lab.runs / "more-0" / "organ_scores.parquet")
    assert set(scores["patient_id"]) == set(scores["patient_id"].cat.categories) == others
    assert set((lab.runs / "more-0" / "chosen.txt").read_text().split()) == others
    explained = json.loads((lab.runs / "more-0" / "explanation.json").read_text())["series"]
    assert {each["patient_id"] for each in explained} == others
    assert set(Store.open(lab.store.path).catalogue["patient_id"]) == others


def test_the_list_removes_nothing(lab: Pipeline) -> None:
    before = everything_in(lab.folder)
    told = forget(lab, lab.trained)
    assert not told["removed"]
    assert everything_in(lab.folder) == before
    counts = told["counts"]
    assert [each for each in told["left"] if str(lab.folder) in each["file"]] == []
    again = forget(lab, lab.trained, yes=True)
    assert again["counts"] == counts
    assert counts["series in stores"] == 2  # in the root, and in that of a prediction
    assert counts["structured report"] == 2
    assert counts["captured step"] == 1
    assert counts["cached features"] == 2


def test_a_receipt_that_cannot_be_written_stops_before_anything_is_removed(
    lab: Pipeline, tmp_path: Path
) -> None:
    def files() -> set[tuple[str, bytes]]:
        found = (path for path in lab.folder.rglob("*") if path.is_file())
        return {(str(path), path.read_bytes()) for path in found}

    before = files()
    with pytest.raises(InputError, match="expected a file to write, got a folder"):
        forget_everywhere(lab.root, lab.trained, runs=[lab.runs], receipt=tmp_path, yes=True)
    assert files() == before


def test_the_receipt_says_who_has_learnt_and_not_the_name(lab: Pipeline) -> None:
    weights = lab.runs / "pretrain" / "backbone.pt"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    told = forget(lab, lab.trained, yes=True, champions=[lab.runs / "finetune"])
    text = (lab.folder / "receipt.json").read_text()
    assert re.search(rf"{lab.trained}(?!\d)", text) is None
    receipt = json.loads(text)
    assert receipt == {name: value for name, value in told.items() if name != "receipt"}
    learnt = {Path(each["run"]).name: each for each in receipt["learnt"]}
    assert set(learnt) == {"pretrain", "finetune", "other"}
    assert learnt["pretrain"]["how"] == ["by id", "by volume"]
    assert learnt["other"]["how"] == ["by id"]
    assert {name: each["champion"] for name, each in learnt.items()} == {
        "pretrain": False,
        "finetune": True,
        "other": False,
    }
    assert learnt["pretrain"]["weights"]["backbone.pt"] == digest
    salt, cost = bytes.fromhex(receipt["patient"]["salt"]), receipt["patient"]["scrypt"]
    said = {
        who: hashlib.scrypt(who.encode(), salt=salt, **cost).hex()
        for who in (lab.trained, lab.tested)
    }
    assert said[lab.trained] in receipt["patient"]["digests"]
    assert said[lab.tested] not in receipt["patient"]["digests"]
    assert any("weights keep" in line for line in receipt["cannot_be_undone"])
    pages = {Path(each["page"]).name: each["command"] for each in receipt["make_again"]}
    assert pages["index.html"].startswith("voco predict")
    for name in learnt:
        assert is_tainted(lab.runs / name)
        mark = json.loads((lab.runs / name / "tainted.json").read_text())
        assert mark == {"since": receipt["date"], "receipts": [receipt["digest"]]}


def test_a_test_patient_taints_no_run(lab: Pipeline) -> None:
    assert forget(lab, lab.tested, yes=True)["learnt"] == []
    assert not any(is_tainted(run) for run in lab.runs.iterdir())


def test_weights_stay_as_they_are_and_a_run_from_them_is_tainted_too(lab: Pipeline) -> None:
    files = [lab.runs / "pretrain" / "checkpoint.pt", lab.runs / "finetune/fold-0/checkpoint.pt"]
    before = [checkpoint.load(path) for path in files]
    backbone = lab.runs / "pretrain" / "backbone.safetensors"
    tensors, header = read_weights(backbone), json.dumps(read_header(backbone))
    assert lab.trained in header
    # Another run starts from these weights, and nobody knows its patients.
    later = lab.runs / "later"
    later.mkdir()
    digest = hashlib.sha256((lab.runs / "pretrain" / "backbone.pt").read_bytes()).hexdigest()[:12]
    (later / "run.json").write_text(json.dumps({"stage": "pretrain", "init": f"run:{digest}"}))
    told = forget(lab, lab.trained, yes=True)
    for path, old in zip(files, before, strict=True):
        new = checkpoint.load(path)
        assert new.keys() == old.keys()
        state = new["objective"]
        assert all(torch.equal(state[name], tensor) for name, tensor in old["objective"].items())
        patients = new["provenance"]["recipe"]["selection"]["patients"]
        expected = old["provenance"]["recipe"]["selection"]["patients"]
        assert [p for p in expected if p != lab.trained] == [p for p in patients if p[0] != "("]
        assert patients.count("(withdrawn)") == 1
    now = read_weights(backbone)
    assert all(torch.equal(now[name], tensor) for name, tensor in tensors.items())
    (found,) = (each for each in told["learnt"] if each["run"] == str(later))
    assert found["how"] == ["from weights of another of these runs"]
    assert is_tainted(later)
    # The digests of rewritten weights changed; runs that name the former one are still found.
    shutil.rmtree(later)
    later.mkdir()
    (later / "run.json").write_text(json.dumps({"stage": "pretrain", "init": f"run:{digest}"}))
    seen = json.loads((lab.runs / "pretrain/patients.json").read_text())["stores"]
    other = min(seen[0]["patients"])
    assert str(later) in [each["run"] for each in forget(lab, other)["learnt"]]


def test_a_run_still_knows_whom_its_pretraining_has_seen(lab: Pipeline) -> None:
    backbone = json.loads((lab.runs / "finetune" / "run.json").read_text())["recipe"]["backbone"]
    before = load_initial_weights(lab.runs / "pretrain", backbone).seen
    forget(lab, lab.trained, yes=True)
    seen = load_initial_weights(lab.runs / "pretrain", backbone).seen
    assert seen is not None
    assert before is not None
    ids, former = (set(each.stores[0].contents) for each in (seen, before))
    assert ids == former - {lab.trained}
    forget(lab, min(ids), yes=True)
    assert load_initial_weights(lab.runs / "pretrain", backbone).seen is not None
    path = lab.runs / "pretrain" / "patients.json"
    data = json.loads(path.read_text())
    data["stores"][0]["patients"].popitem()  # by hand, not by voco forget
    path.write_text(json.dumps(data))
    assert load_initial_weights(lab.runs / "pretrain", backbone).seen is None


@pytest.mark.parametrize("kind", ["trained", "tested"])
def test_frozen_evaluations_can_be_repeated_and_compared(
    lab: Pipeline, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, gone = lab.runs / "finetune", int(kind == "tested")
    digest = read_finished_run(run).digest
    before = json.loads((run / "metrics.json").read_text())["test_patients"]
    forget(lab, getattr(lab, kind), yes=True)
    assert main(["evaluate", str(run), "--again", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["test_patients"], told["withdrawn"], told["looks"]) == (before - gone, gone, 2)
    says = "1 test patient was forgotten (voco forget) since the run was made"
    assert (says in " ".join((run / "report.html").read_text().split())) == bool(gone)
    out = lab.folder / "compared"
    words = ["evaluate", str(run), "--against", str(lab.runs / "other"), "--out", str(out)]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["patients"], told["withdrawn"]) == (before - gone, gone)
    assert ("Test patients forgotten since" in (out / "comparison.html").read_text()) == bool(gone)
    # The run predicts as before: a folder of its predictions is still its own.
    assert read_finished_run(run).digest == digest
    prepare_prediction(run, lab.runs / "predicted")
    # A second patient, and then a change that no withdrawal explains.
    others = json.loads((run / "split.json").read_text())["additions"][0]
    forget(lab, others["test"][0], yes=True)
    assert evaluate(run, again=True).withdrawn == gone + 1
    assert compare_runs(run, lab.runs / "other", out).withdrawn == gone + 1
    table = pd.read_parquet(run / "predictions.parquet")
    table.iloc[1:].to_parquet(run / "predictions.parquet", index=False)
    with pytest.raises(InputError, match="changed since the test set was opened"):
        evaluate(run, again=True)


def test_restored_predictions_are_refused(lab: Pipeline) -> None:
    table = lab.runs / "finetune" / "predictions.parquet"
    kept = table.read_bytes()
    forget(lab, lab.tested, yes=True)
    table.write_bytes(kept)
    with pytest.raises(InputError, match="holds a patient who was forgotten"):
        evaluate(lab.runs / "finetune", again=True)


class Killed(BaseException):
    """Stands for the end of the process: nobody may handle it."""


@contextmanager
def dying_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[str]]:
    """Die at the `number`-th change of a file, before or after it by turns."""
    done: list[str] = []

    def change(act: Any) -> Any:
        def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
            done.append(str(args[0] if args else self))
            if len(done) == number and number % 2:
                raise Killed
            result = act(self, *args, **kwargs)
            if len(done) == number:
                raise Killed
            return result

        return dying

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "remove", change(LocalStorage.remove))
        for name in ("unlink", "replace", "rmdir"):
            patch.setattr(Path, name, change(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", change(shutil.rmtree))
        yield done


def state_of(lab: Pipeline) -> dict[str, str]:
    """Everything, without the digest, the salt and the time of the receipt."""
    receipt = json.loads((lab.folder / "receipt.json").read_text())
    hidden = [receipt["digest"], receipt["patient"]["salt"], *receipt["patient"]["digests"]]
    hidden += [receipt["date"], str(lab.folder)]
    pattern = re.compile("|".join(map(re.escape, hidden)))
    skipped = re.compile(r"seals\.parquet|\.lock$|/report\.html$")
    return {
        name: pattern.sub("_", text)
        for name, text in everything_in(lab.folder).items()
        if not skipped.search(name)
    }


@pytest.mark.parametrize("step", [110, pytest.param(7, marks=pytest.mark.slow)])
def test_killed_anywhere_the_same_call_ends_with_the_same_state(
    made: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    patient = made.trained
    expected = made.copy(tmp_path / "expected")
    forget(expected, patient, yes=True)
    wanted = state_of(expected)
    for number in itertools.count(3, step):
        lab = made.copy(tmp_path / str(number))
        with dying_at(monkeypatch, number):
            try:
                forget(lab, patient, yes=True)
                died = False
            except Killed:
                died = True
        if died:
            try:
                forget(lab, patient, yes=True)
            except InputError:  # it had died after the very last step
                assert not list(lab.folder.rglob("withdrawals/*.json"))
        assert files_that_say(lab.folder, patient) == set()
        assert state_of(lab) == wanted
        shutil.rmtree(lab.folder)
        if not died:
            break
    assert number > 150


def test_somebody_who_is_named_nowhere_is_one_line(
    lab: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_in(lab.folder)
    words = ["forget", "anna", "--root", str(lab.root), "--runs", str(lab.runs), "--yes"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "names the patient" in error
    assert everything_in(lab.folder) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--runs", "nowhere"], "expected a folder with the runs"),
        (["--split", "nowhere.json"], "expected a split file"),
        ([], "named: "),
    ],
)
def test_places_that_are_not_there_are_one_line(
    lab: Pipeline, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    patient = lab.trained if words else " "
    assert main(["forget", patient, "--root", str(lab.root), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error or "got an empty text" in error


def test_a_run_that_trains_is_waited_for_and_nothing_is_touched(
    lab: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_in(lab.folder)
    assert (run_lock.LOCK, f".{looks.FILE}.lock") == RUN_LOCKS
    words = ["forget", lab.trained, "--root", str(lab.root), "--runs", str(lab.runs), "--yes"]
    with locks.hold_lock(lab.runs / "finetune" / "fold-1" / ".lock"):
        assert main(words) == 1
    assert "--wait" in capsys.readouterr().err
    after = everything_in(lab.folder)
    assert {n for n in before if after[n] != before[n] and not n.endswith(".lock")} == set()
    assert after.keys() == before.keys()


def test_a_patient_who_was_erased_from_the_root_before_is_found_in_runs(lab: Pipeline) -> None:
    assert main(["store", "forget", str(lab.root), lab.trained, "--yes"]) == 0
    told = forget(lab, lab.trained, yes=True)
    assert {Path(each["run"]).name for each in told["learnt"]} == {"pretrain", "finetune", "other"}
    assert files_that_say(lab.runs, lab.trained) == set()


def test_split_files_elsewhere(lab: Pipeline, tmp_path: Path) -> None:
    split = shutil.copy(lab.runs / "split.json", tmp_path / "frozen.json")
    forget_everywhere(
        lab.root, lab.tested, splits=[split], receipt=tmp_path / "receipt.json", yes=True
    )
    assert lab.tested not in read_split(split).groups
    assert read_split(split).withdrawn == 1
    assert lab.tested in read_split(lab.runs / "split.json").groups
    assert np.unique(list(read_split(split).groups.values())).tolist() == [0, 1, 2]


def test_runs_below_the_root(lab: Pipeline) -> None:
    inside = Path(shutil.move(lab.runs, lab.root / "trainings"))
    told = forget_everywhere(
        lab.root, lab.trained, runs=[lab.root], receipt=lab.folder / "receipt.json", yes=True
    )
    assert files_that_say(lab.folder, lab.trained) == set()
    assert {Path(each["run"]) for each in told["learnt"]} == {
        inside / name for name in ("pretrain", "finetune", "other")
    }


def test_a_root_in_a_bucket(
    lab: Pipeline,
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"VOCO_CACHE": str(tmp_path / "cache"), "VOCO_PRIVATE": str(tmp_path / "names")}
    use(monkeypatch, s3_server.environment | own)
    url = f"s3://{BUCKET}/{tmp_path.name}"
    root = open_storage(url)
    for path in lab.root.rglob("*"):
        if path.is_file() and not path.name.endswith((".lock", ".fence")):
            root.write(path.relative_to(lab.root).as_posix(), path.read_bytes())
    words = ["forget", lab.trained, "--root", url, "--runs", str(lab.runs), "--yes"]
    assert main([*words, "--receipt", str(tmp_path / "receipt.json")]) == 0
    objects = s3_server.objects(f"{tmp_path.name}/")
    name = re.compile(rf"{lab.trained}(?!\d)")
    assert not [key for key, data in objects.items() if name.search(data.decode("latin-1"))]
    assert len(Store.open(f"{url}/{lab.store.storage.name}").rows) == PATIENTS - 1
    assert files_that_say(lab.runs, lab.trained) == set()
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    learnt = {Path(each["run"]).name: each["how"] for each in receipt["learnt"]}
    assert learnt["pretrain"] == ["by id", "by volume"]
    assert not list((tmp_path / "names").rglob("*.json"))


def test_a_run_without_test_patients_is_one_line(lab: Pipeline) -> None:
    run = lab.runs / "finetune"
    for patient in read_split(run / "split.json").test:
        forget(lab, patient, yes=True)
    with pytest.raises(InputError, match="no test patient is left"):
        evaluate(run, again=True)
    looked = json.loads((run / "evaluations.json").read_text())["looks"]
    assert len(looked) == 1  # nothing was seen, and nothing is counted
