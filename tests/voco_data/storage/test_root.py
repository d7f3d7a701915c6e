"""A sweep of a root removes files that killed runs left, and none of a program that runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ct_files import body, write_slices
from voco_data.erasure import run_files
from voco_data.erasure.patient import forget_patient
from voco_data.errors import StoreBusy
from voco_data.ingest.run import preprocess
from voco_data.maintenance.garbage import collect_garbage
from voco_data.storage import locks
from voco_data.storage.local import LocalStorage
from voco_data.storage.root import ROOT_LOCK, root_in_use
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
RUN = "20260101T000000-preprocess-0123ab"
TORN = ".{}.123.0123abcd.tmp"
OURS = (
    TORN.format("freshness.parquet"),
    f"previews/ab/{TORN.format('x.jpg')}",
    f"private/{TORN.format('ids.parquet')}",
    f"runs/{RUN}/{TORN.format('ledger.parquet')}",
)
"""Partial files of preprocess, in every folder outside the stores that it writes to."""
THEIRS = (
    f"runs/training/{TORN.format('history.csv')}",
    f"runs/training/checkpoints/{TORN.format('last.pt')}",
    f"runs/{RUN}-again/{TORN.format('run.json')}",
    f"experiments/a/{TORN.format('run.json')}",
    f"pins/{TORN.format('x.json')}",
)
"""Partial files of a training run that is writing under the root."""
DAY_S = 24 * 3600


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one patient, and with files of two killed runs and of a live training run."""
    write_slices(tmp_path / "archive" / "a", body(), tags={"PatientID": "anna"})
    (tmp_path / "spec.json").write_text(SMALL.canonical_json())
    home = tmp_path / "root"
    fill(home)
    for key in (*OURS, *THEIRS):
        (home / key).parent.mkdir(parents=True, exist_ok=True)
        (home / key).write_bytes(b"half")
    (home / "runs" / "starting").mkdir()
    (home / "runs" / RUN.replace("ab", "cd")).mkdir()
    return home


def fill(home: Path) -> None:
    preprocess(
        home.parent / "archive",
        home,
        spec_file=home.parent / "spec.json",
        workers=1,
        keep_ids=True,
    )


def run_again(home: Path) -> None:
    fill(home)


def forget_anna(home: Path) -> None:
    forget_patient(home, "anna", yes=True)


def remove_garbage(home: Path) -> None:
    collect_garbage(home, yes=True)


@pytest.mark.parametrize("act", [run_again, forget_anna])
def test_files_of_killed_runs_are_removed_and_those_of_training_stay(
    root: Path, act: Callable[[Path], None]
) -> None:
    act(root)
    assert {key for key in OURS if (root / key).exists()} == set()
    assert {key for key in THEIRS if (root / key).exists()} == set(THEIRS)
    assert (root / "runs" / "starting").is_dir()
    assert not (root / "runs" / RUN).exists()
    assert not (root / "runs" / RUN.replace("ab", "cd")).exists()


@pytest.mark.parametrize("act", [forget_anna, remove_garbage])
def test_partial_files_older_than_a_day_are_removed_everywhere(
    root: Path, act: Callable[[Path], None]
) -> None:
    for key in THEIRS:
        os.utime(root / key, (time.time() - 2 * DAY_S,) * 2)
    act(root)
    assert {key for key in THEIRS if (root / key).exists()} == set()


def test_a_forget_waits_for_the_runs_of_a_root(root: Path) -> None:
    """Also for a run whose store does not exist yet."""
    with root_in_use(LocalStorage(root)), pytest.raises(StoreBusy, match="another run"):
        forget_anna(root)
    forget_anna(root)


def test_no_run_sweeps_while_a_forget_writes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def looking(*args: object, **_options: object) -> None:
        with pytest.raises(StoreBusy), locks.hold_lock(root / ROOT_LOCK):
            pytest.fail("another run was alone in the root")
        calls.append(args)

    monkeypatch.setattr(run_files, "rewrite_without_patient", looking)
    forget_anna(root)
    assert calls
