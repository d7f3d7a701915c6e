"""The stages in two processes of `torchrun`: as in one, resumed exactly, stopped together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.support import distributed_runs
from tests.support.distributed_runs import BATCH, FINETUNE_RUNS, POISONED_STEP, make_inputs
from tests.support.precision import one_thread
from tests.support.torchrun import LIMIT_S, command, environment, torchrun
from voco_models.training import checkpoint
from voco_models.training.capture import CAPTURE, load_capture
from voco_models.training.history import read_history

SCRIPT = str(Path(distributed_runs.__file__))
TOLERANCE = 1e-5

pytestmark = pytest.mark.xdist_group("runs of two processes")  # one start of them


def curve(run: Path, name: str = "history.csv") -> pd.DataFrame:
    table = pd.DataFrame(read_history(run, name))
    return table.drop(columns=["seconds", "crops_per_second", "data_wait"], errors="ignore")


@dataclass(frozen=True)
class Runs:
    """Folder of the runs, and what `voco` printed in two processes after them."""

    folder: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs of one process and of two, and a run of two that was stopped and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    make_inputs(folder)
    with one_thread():
        distributed_runs.main("whole", folder)
    (store,) = (folder / "pretrain").glob("*.zarr")
    words = ["pretrain", str(store), "--out", str(folder / "run"), "--recipe", "tiny", "--json"]
    small = ["--set", "fit.total_steps=2", "--set", "fit.warmup_steps=0"]
    # A network with layers after its feature map, which get no gradient.
    network = ["--set", "backbone=convnext_atto"]
    done = torchrun([SCRIPT, "whole", str(folder), *words, *small, *network])
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return Runs(folder, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def folder(runs: Runs) -> Path:
    return runs.folder


@pytest.mark.parametrize("table", ["history.csv", "health.csv", "probes.csv"])
def test_two_processes_train_as_one_does(folder: Path, table: str) -> None:
    one, two = curve(folder / "whole-1", table), curve(folder / "whole-2", table)
    assert len(one) >= 2
    pd.testing.assert_frame_equal(one, two, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_networks_are_those_of_one_process(folder: Path) -> None:
    one, two = (
        checkpoint.load(folder / f"whole-{n}" / "checkpoint.pt")["objective"] for n in (1, 2)
    )
    assert list(one) == list(two)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-4, msg=name)


def test_a_resumed_run_of_two_processes_is_the_uninterrupted_one(folder: Path) -> None:
    whole, resumed = folder / "whole-2", folder / "part-2"
    pd.testing.assert_frame_equal(curve(resumed), curve(whole), check_exact=True)
    one, two = (checkpoint.load(run / "checkpoint.pt") for run in (whole, resumed))
    assert one["step"] == two["step"] == 6
    for name, tensor in one["objective"].items():
        assert torch.equal(tensor, two["objective"][name]), name
    for key, entry in one["optimizer"]["state"].items():
        for name, tensor in entry.items():
            assert torch.equal(tensor, two["optimizer"]["state"][key][name]), name


def test_a_run_of_two_processes_has_the_files_of_one(folder: Path) -> None:
    names = [{path.name for path in (folder / f"whole-{n}").iterdir()} for n in (1, 2)]
    assert names[0] == names[1]


@pytest.mark.parametrize("name", FINETUNE_RUNS)
def test_fine_tuning_in_two_processes_is_that_of_one(folder: Path, name: str) -> None:
    """Also with activations that are computed again, a moving average, and mixup."""
    runs = [folder / f"{name}-{n}" for n in (1, 2)]
    for fold in ("fold-0", "fold-1"):
        tables = [curve(run / fold) for run in runs]
        pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-4)
    predictions = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    pd.testing.assert_frame_equal(*predictions, rtol=1e-3, atol=1e-3)
    assert json.loads((runs[1] / "run.json").read_text())["finished"]


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(folder: Path) -> None:
    assert all((folder / f"stopped-{rank}.txt").exists() for rank in (0, 1))
    saved = checkpoint.load(folder / "signalled" / "checkpoint.pt")
    assert 2 <= saved["step"] < 100


@pytest.mark.slow
def test_a_signal_from_outside_stops_all_with_a_checkpoint(tmp_path: Path) -> None:
    inputs = tmp_path
    make_inputs(inputs)
    with subprocess.Popen(
        command([SCRIPT, "long", str(inputs)]),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        end = time.monotonic() + LIMIT_S
        while not (inputs / "pid-1").exists():
            assert running.poll() is None, running.stderr and running.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        os.kill(int((inputs / "pid-1").read_text()), signal.SIGTERM)
        running.communicate(timeout=LIMIT_S)
    saved = checkpoint.load(inputs / "long" / "checkpoint.pt")
    assert 2 <= saved["step"] < 100_000


def test_a_loss_that_is_not_finite_in_one_process_ends_all_and_is_captured(folder: Path) -> None:
    texts = [(folder / f"diverged-{rank}.txt").read_text() for rank in (0, 1)]
    assert texts[0].startswith(f"step {POISONED_STEP}: the loss is not finite")
    assert texts[0] == texts[1]
    capture = load_capture(folder / "diverged" / CAPTURE)
    assert capture.step == POISONED_STEP
    assert len(capture.volumes) == len(set(capture.items.tolist())) == BATCH
    assert len(capture.names) == BATCH


def test_a_batch_that_cannot_be_divided_is_refused_in_all_before_anything_is_written(
    folder: Path,
) -> None:
    for rank in (0, 1):
        assert (folder / f"divided-{rank}.txt").read_text() == (
            "recipe: batch_size 3 cannot be divided among 2 processes; set it to a multiple of 2"
        )
    assert not (folder / "divided").exists()


def test_mixup_with_one_series_in_a_process_is_refused_before_anything_is_written(
    folder: Path,
) -> None:
    for rank in (0, 1):
        text = (folder / f"mixed-{rank}.txt").read_text()
        assert "mixup_alpha needs an even batch_size, also in each process" in text
        assert "got a batch of 1" in text
    assert not (folder / "mixed").exists()


def test_one_process_prints_the_summary(runs: Runs) -> None:
    (line,) = runs.stdout.splitlines()
    assert json.loads(line)["last_step"] == 2
    assert sum("step 2 of 2" in line for line in runs.stderr.splitlines()) == 1
