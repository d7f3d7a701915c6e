"""Retrainings of a made-up archive that grows: pins, retries, nothing new, champion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from flows.command import main
from flows.ids import patient_pseudonymiser
from flows.retrain import retrain
from flows.retraining_steps import check_retraining
from tests.support import small_finetune
from voco_data.errors import InputError, VocoError
from voco_data.phantom import cohort
from voco_data.selection.exposure import SeenPatients
from voco_data.selection.split import Addition, Split
from voco_data.selection.split_file import read_split
from voco_data.store.reader import Store
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES
from voco_models.tracking.backbone_choice import choose_backbone
from voco_models.tracking.champions import read_champions
from voco_models.tracking.pins import BackboneChoice, read_pins
from voco_models.tracking.retraining_request import RetrainingRequest

pytestmark = pytest.mark.xdist_group("prefect")  # one server for all files of flows

DUE = datetime(2026, 3, 1, 3, tzinfo=UTC)
STOPPED = "00000000-0000-0000-0000-00000000000a"
"""Id of the flow run that is stopped and retried."""
FIRST, SECOND = ("retrain-20260301-030000-00000000000" + digit for digit in "ab")


@dataclass
class Site:
    """An archive that patients come into, and what is made of it."""

    folder: Path
    waiting: list[Path]
    """Scans of patients who have not come yet."""
    table: pd.DataFrame
    """Labels of all patients."""

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def receive(self, count: int) -> None:
        """Patients come into the archive."""
        (self.folder / "archive").mkdir(exist_ok=True)
        for scan in self.waiting[:count]:
            shutil.move(scan, self.folder / "archive" / scan.name)
        self.waiting = self.waiting[count:]

    def label(self, *, without: tuple[int, ...] = ()) -> None:
        """Write the labels of all but some patients."""
        self.table.drop(index=list(without)).to_csv(self.folder / "train.csv", index=False)

    def retrain(self, run_id: str, **options: Any) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patched:
            run = SimpleNamespace(scheduled_start_time=DUE, id=run_id)
            patched.setattr("flows.retraining_steps.flow_run", run)
            given = {"pretrain_recipe": "tiny", "finetune_recipe": "tiny", "margin": 9.0} | options
            return retrain(
                self.folder / "archive", self.folder / "stores", self.folder / "train.csv",
                self.runs, layout="dicom", workers=1, **given,
            )  # fmt: skip

    def files(self) -> dict[str, bytes]:
        """Path to content of all files of the runs."""
        paths = [path for path in self.runs.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in paths if path.name[0] != "."}


@pytest.fixture(scope="module")
def site(embedded: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """12 of 14 patients have come, and one of the 12 has no label."""
    folder = tmp_path_factory.mktemp("site")
    spec = cohort.CohortSpec(
        patients=14, unlabelled=0, matrix=64, slices=24, injury_prevalence=0.35, seed=0
    )
    made = cohort.write_cohort(spec, folder / "cohort")
    scans = sorted((made.ratic / "train_images").iterdir())
    site = Site(folder, scans, pd.read_csv(made.labels))
    site.receive(12)
    site.label(without=(3, 12, 13))
    fit = replace(PRETRAIN_RECIPES["tiny"].fit, total_steps=3, warmup_steps=1, log_every=1)
    recipes = "voco_models.stages"
    with pytest.MonkeyPatch.context() as patched:
        short = {"tiny": replace(PRETRAIN_RECIPES["tiny"], fit=fit)}
        patched.setattr(f"{recipes}.pretrain_recipes.PRETRAIN_RECIPES", short)
        small = {"tiny": replace(small_finetune.RECIPE, name="tiny", epochs=1)}
        patched.setattr(f"{recipes}.finetune_recipes.FINETUNE_RECIPES", small)
        yield site


def refuse(stage: str) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"{stage} was called")

    return call


def test_inputs_are_checked_before_any_training(site: Site, monkeypatch: Any) -> None:
    for stage in ("pretrain", "finetune"):
        monkeypatch.setattr(f"voco_models.stages.{stage}", refuse(stage))
    wrong = {
        "expected one of tiny": {"finetune_recipe": "tinny"},
        "did you mean": {"pretrain_changes": ("fit.lrr=1",)},
        "margin: expected": {"margin": -1.0},
        "new data share: expected": {"new_data_share": 2.0},
        "finetune_profile: expected one of the specs pretrain": {"specs": ("pretrain",)},
        "expected one backbone": {"pretrain_changes": ("backbone='resnet18'",)},
        "patients have no label": {"allow_unlabelled": False},
        "fewer than the recipe's batch": {"finetune_changes": ("batch_size=64",)},
        "mlflow: expected local": {"mlflow": "ftp://server"},
    }
    for message, options in wrong.items():
        with pytest.raises(InputError, match=message):
            site.retrain("0" * 32, **options)
    (site.runs / "champion.json").write_text("{")
    with pytest.raises(InputError, match="as voco wrote it"):
        site.retrain("0" * 32)
    (site.runs / "champion.json").unlink()
    full = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1000))
    with monkeypatch.context() as patched:
        patched.setattr("voco_models.tracking.retraining.shutil", full)
        with pytest.raises(VocoError, match="needed for the checkpoints"):
            site.retrain("0" * 32)
    assert [path.name for path in site.runs.iterdir() if path.is_dir()] == []


def test_without_torch_the_recipes_are_checked_where_it_trains(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A machine that only preprocesses checks the rest. The task's function is called."""
    wrong = RetrainingRequest(tmp_path / "none.csv", pretrain_recipe="tinny")
    monkeypatch.setattr("flows.retraining_steps.find_spec", lambda _: None)
    checked: list[str] = []
    monkeypatch.setattr("voco_models.tracking.check_request", lambda *_: checked.append("request"))
    profiles = {"pretrain": "pretrain", "finetune": "finetune"}
    check_retraining.fn(wrong, tmp_path, 0.1, profiles, {}, None)
    assert checked == ["request"]
    monkeypatch.undo()
    monkeypatch.setattr("voco_models.tracking.check_request", lambda *_: None)
    with pytest.raises(InputError, match="expected one of"):
        check_retraining.fn(wrong, tmp_path, 0.1, profiles, {}, None)


def test_a_retry_after_the_archive_grew_uses_the_pins(site: Site, monkeypatch: Any) -> None:
    with monkeypatch.context() as patched:
        stop = InputError("stopped")

        def stopped(*_: Any, **__: Any) -> Any:
            raise stop

        patched.setattr("voco_models.stages.finetune", stopped)
        with pytest.raises(InputError, match="stopped"):
            site.retrain(STOPPED)
    run = site.runs / FIRST
    pinned = (run / "labels.csv").read_bytes()
    site.receive(2)
    site.table.loc[0, ["liver_healthy", "liver_low", "liver_high"]] = (0, 0, 1)
    site.label(without=(3,))
    summary = site.retrain(STOPPED, mlflow="local")
    assert (summary["mlflow"]["added"], summary["mlflow"]["champion"]) == (1, FIRST)
    assert (summary["promoted"], summary["champion"]) == (True, FIRST)
    assert (summary["patients"], summary["unlabelled"]) == (11, 1)
    assert summary["reason"] == "there was no champion"
    assert (run / "labels.csv").read_bytes() == pinned
    described = json.loads((run / "finetune" / "run.json").read_text())
    assert described["patients"] == 11
    table = pd.read_parquet(run / "finetune" / "labels.parquet")
    assert not set(table["patient_id"]) & {str(i) for i in site.table["patient_id"]}  # pseudonyms


def test_new_scans_are_learnt_from_without_another_pretraining(
    site: Site, monkeypatch: Any
) -> None:
    monkeypatch.setattr("voco_models.stages.pretrain", refuse("pretrain"))
    summary = site.retrain(STOPPED[:-1] + "b", new_data_share=0.9)
    assert (summary["pretrained"], summary["patients"], summary["unlabelled"]) == (False, 13, 1)
    assert 0 < summary["new_share"] < 0.9
    assert summary["promoted"]
    assert f"champion {FIRST}" in summary["reason"]
    pins = read_pins(site.runs / SECOND)
    assert pins is not None
    assert pins.backbone.folder == f"{FIRST}/pretrain"
    first, second = (read_split(site.runs / name / "split.json") for name in (FIRST, SECOND))
    assert first.groups.items() < second.groups.items()
    seen = SeenPatients.read(site.runs / FIRST / "pretrain")
    assert seen is not None
    known = {patient for store in seen.stores for patient in store.contents}
    assert not known & set(second.test)


def test_a_backbone_that_has_seen_test_patients_is_not_taken(site: Site) -> None:
    """As when a patient is labelled later, and comes into the test set."""
    pins = read_pins(site.runs / SECOND)
    assert pins is not None
    split = read_split(pins.split)
    swapped = Addition("", test=split.folds[0], folds=(split.test, *split.folds[1:]))
    recipe = PRETRAIN_RECIPES["tiny"]
    digest = pins.digests["pretrain_recipe"]
    store = Store.open(pins.stores["pretrain"])

    def choose(split: Split, digest: str, threshold: float) -> BackboneChoice:
        champions = read_champions(site.runs)
        return choose_backbone("x", site.runs, champions, store, split, recipe, digest, threshold)

    share = choose(split, digest, 0.9).new_share
    assert share is not None
    assert not choose(split, digest, share + 0.01).pretrains
    assert choose(split, digest, share).pretrains
    seen = choose(replace(split, additions=(swapped,)), digest, 0.9)
    assert (seen.pretrains, seen.folder) == (True, "x/pretrain")
    assert "test patients" in seen.reason
    assert choose(split, "other", 0.9).reason == "the recipe of pretraining has changed"


def test_without_a_change_nothing_is_retrained(site: Site, monkeypatch: Any) -> None:
    for stage in ("pretrain", "finetune", "evaluate"):
        monkeypatch.setattr(f"voco_models.stages.{stage}", refuse(stage))
    before = site.files()
    summary = site.retrain(STOPPED[:-1] + "c")
    assert summary == {
        "retrained": False,
        "reason": f"series, labels and recipes are those of {SECOND}",
        "champion": SECOND,
    }
    assert site.files() == before


def test_a_rollback_and_a_withdrawn_patient(site: Site, capsys: Any) -> None:
    """The champion's backbone is tainted: the next retraining makes another one."""
    assert main(["champion", str(site.runs), "--rollback", "--reason", "slow"]) == 0
    assert read_champions(site.runs).champion == FIRST
    patient = read_split(site.runs / FIRST / "split.json").folds[0][0]
    pseudonym = patient_pseudonymiser(site.folder / "stores" / "any")
    assert pseudonym is not None
    (own,) = (i for i in map(str, site.table["patient_id"]) if pseudonym(i) == patient)
    shutil.rmtree(site.folder / "archive" / own)
    receipt = site.folder / "receipt.json"
    folders = ["--root", str(site.folder / "stores"), "--runs", str(site.runs)]
    assert main(["forget", patient, *folders, "--receipt", str(receipt), "--yes"]) == 0
    learnt = {each["run"]: each["champion"] for each in json.loads(receipt.read_text())["learnt"]}
    assert learnt == {
        str(site.runs / FIRST / "pretrain"): True,
        str(site.runs / FIRST / "finetune"): True,
        str(site.runs / SECOND / "finetune"): False,
    }
    named = [path for path, content in site.files().items() if patient.encode() in content]
    assert named == []
    assert main(["champion", str(site.runs), "--promote", SECOND, "--reason", "x"]) == 2
    assert "has learnt from a withdrawn patient" in capsys.readouterr().err
    summary = site.retrain(STOPPED[:-1] + "d")
    assert summary["pretrained"]
    assert "withdrawn patient" in summary["backbone"]
    assert (summary["promoted"], summary["champion_tainted"]) == (True, False)


def test_a_retry_after_a_withdrawal_is_one_line(site: Site) -> None:
    with pytest.raises(InputError, match="were pinned are gone"):
        site.retrain(STOPPED[:-1] + "b")
