"""Which retrainings and checkpoints are removed, and that nothing else is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from voco_data.errors import InputError
from voco_data.storage import locks
from voco_models.tracking.champion_changes import record_run, roll_back
from voco_models.tracking.champions import RetrainedRun, read_champions
from voco_models.tracking.promotion import Verdict
from voco_models.tracking.retention import remove_old_runs


def name_of(digit: str) -> str:
    return f"retrain-2026010{digit}-030000-00000000000{digit}"


ONE, TWO, THREE, FOUR, FIVE, SIX = map(name_of, "123456")
DAY_S = 24 * 3600


def make_run(runs: Path, name: str, *, days: float, backbone: str | None = None) -> Path:
    """A retraining whose files are so many days old; it pretrains unless `backbone` is another."""
    folder = runs / name
    stages = ["finetune/fold-0", *([] if backbone else ["pretrain"])]
    for stage in stages:
        (folder / stage).mkdir(parents=True)
        (folder / stage / "checkpoint.pt").write_bytes(b"x" * 1000)
        (folder / stage / ".lock").touch()
    if backbone is None:
        (folder / "pretrain" / "backbone.pt").write_bytes(b"x" * 100)
    choice = {"folder": f"{backbone or name}/pretrain"}
    (folder / "pins.json").write_text(json.dumps({"backbone": choice}))
    for path in folder.rglob("*"):
        if path.name != ".lock":
            os.utime(path, (time.time() - days * DAY_S,) * 2)
    return folder


def finish(runs: Path, name: str, *, promoted: bool, backbone: str | None = None) -> None:
    run = RetrainedRun(name, f"{backbone or name}/pretrain", "2026-01-01T00:00:00Z", {})
    record_run(runs, run, Verdict(promoted, "as told"), read_champions(runs).champion)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Champions 2, 3 (with 1's backbone) and 5; challenger 1; 4 did not finish; all are old."""
    folder = tmp_path / "runs"
    for name, backbone, promoted in (
        (ONE, None, None),
        (TWO, None, True),
        (THREE, ONE, True),
        (FOUR, None, None),
        (FIVE, None, True),
    ):
        make_run(folder, name, days=200, backbone=backbone)
        if promoted is not None or name == ONE:
            finish(folder, name, promoted=bool(promoted), backbone=backbone)
    (folder / "mine").mkdir()
    (folder / "split.json").touch()
    return folder


def found(runs: Path, **options: float) -> set[tuple[str, str]]:
    listed = remove_old_runs(runs, **options)  # type: ignore[arg-type]
    return {(each.what, str(each.path.relative_to(runs))) for each in listed}


def test_champion_predecessor_and_their_backbones_stay(runs: Path) -> None:
    before = sorted(runs.rglob("*"))
    expected = {
        ("retraining", TWO),  # a champion of long ago
        ("retraining", FOUR),  # not finished
        ("checkpoint", f"{ONE}/pretrain/checkpoint.pt"),
        ("checkpoint", f"{FIVE}/pretrain/checkpoint.pt"),
    }
    assert found(runs) == expected
    assert [path for path in sorted(runs.rglob("*")) if path.name[0] != "."] == [
        path for path in before if path.name[0] != "."
    ]
    history = read_champions(runs)
    remove_old_runs(runs, yes=True)
    assert {path.name for path in runs.iterdir() if path.name[0] != "."} == {
        ONE, THREE, FIVE, "mine", "split.json", "champion.json", "champion.previous.json",
    }  # fmt: skip
    assert read_champions(runs) == history
    for name in (ONE, FIVE):
        assert (runs / name / "pretrain" / "backbone.pt").exists()
    for name in (ONE, THREE, FIVE):  # the weights of the classifier
        assert (runs / name / "finetune" / "fold-0" / "checkpoint.pt").exists()
    assert found(runs) == set()
    assert roll_back(runs, "it is slow").champion == THREE


def test_young_runs_and_their_backbones_stay(runs: Path) -> None:
    make_run(runs, SIX, days=5, backbone=TWO)  # it did not finish, and may be retried
    assert ("retraining", TWO) not in found(runs)
    assert ("retraining", SIX) not in found(runs)
    assert not any(SIX in path for _, path in found(runs))
    assert {("retraining", TWO), ("retraining", SIX)} <= found(runs, days=4)
    assert ("retraining", FOUR) not in found(runs, days=201)


def test_a_run_that_trains_stays(runs: Path) -> None:
    with locks.hold_lock(runs / FOUR / "pretrain" / ".lock"):
        assert ("retraining", FOUR) not in found(runs)
    with locks.hold_lock(runs / FIVE / "finetune" / ".lock"):
        pass
    assert ("retraining", FOUR) in found(runs)


def test_a_removal_that_was_killed_is_finished(runs: Path) -> None:
    (runs / FOUR).rename(runs / f".removing-{FOUR}")
    assert ("removal", f".removing-{FOUR}") in found(runs)
    remove_old_runs(runs, yes=True)
    assert not (runs / f".removing-{FOUR}").exists()


def test_damage_removes_nothing(runs: Path, tmp_path: Path) -> None:
    (runs / FOUR / "pins.json").write_text("{")
    os.utime(runs / FOUR / "pins.json", (0, 0))
    with pytest.raises(InputError, match="expected the pins of a retraining"):
        remove_old_runs(runs, yes=True)
    (runs / "champion.json").write_text("{")
    with pytest.raises(InputError, match="as voco wrote it"):
        remove_old_runs(runs, yes=True)
    assert (runs / TWO).exists()
    with pytest.raises(InputError, match="expected the folder of the flow retrain's runs"):
        remove_old_runs(tmp_path / "none")
