"""Runs on a real server that are cancelled, stopped and killed: what is left, and what is shown."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.server_automations import SILENT
from tests.support.prefect_site import Site, service, until
from tests.support.run_processes import engine_of, group_of
from tests.support.small_stores import make_store, random_volumes
from voco_data.phantom.cohort import CohortSpec, write_cohort
from voco_data.store.reader import Store
from voco_models.training import checkpoint
from voco_models.training.history import HISTORY

pytestmark = pytest.mark.xdist_group("prefect")

ENDLESS = [
    "fit.total_steps=1000000", "fit.checkpoint_every=1000000", "fit.log_every=5",
    "voco.slice_stride=2", "batch_size=2",
]  # fmt: skip
"""A training of the recipe `tiny` that saves only when it is stopped."""
STEP = "prefect.deployments.steps.set_working_directory"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores"), random_volumes(8, (4, 24, 24)))


@pytest.fixture
def out(site: Site, tmp_path: Path) -> Iterator[Path]:
    """A run folder; whatever still trains in it is killed at the end."""
    yield tmp_path / "run"
    for run in site.runs_of("pretrain"):
        if left := engine_of(run["id"]):
            os.killpg(left.pid, signal.SIGKILL)


def train(site: Site, store: Store, out: Path) -> tuple[str, int]:
    """Ask for a training that does not end; returns the run and its process group, in training."""
    run = site.run(
        "pretrain", stores=[str(store.path)], out=str(out), recipe="tiny", changes=ENDLESS
    )
    until((out / HISTORY).exists, f"the first steps; {run}")
    engine = engine_of(run)
    assert engine is not None
    return run, engine.pid


def ended(site: Site, run: str, group: int) -> Callable[[], bool]:
    return lambda: site.state(run) not in ("Running", "Cancelling") and not group_of(group)


def saved_step(out: Path) -> int:
    return int(checkpoint.load(out / checkpoint.CHECKPOINT)["step"])


def test_a_training_is_alive_until_it_is_cancelled_and_then_saves_and_is_gone(
    site: Site, store: Store, out: Path, tmp_path: Path
) -> None:
    with site.worker("gpu", tmp_path / "worker.log"):
        run, group = train(site, store, out)
        silent = {"type": "CRASHED", "name": "Crashed", "message": f"{SILENT} 90 s"}
        site.ask(f"/flow_runs/{run}/set_state", state=silent, force=True)
        until(lambda: site.state(run) == "Running", "the run to say that it is alive")
        site.cancel(run)
        until(ended(site, run, group), "the end of the run")
        # Never Crashed in between: that would send a notification.
        assert site.states(run)[-3:] == ["Running", "Cancelling", "Cancelled"]
        assert saved_step(out) > 0


def test_a_worker_that_is_stopped_ends_when_its_training_has_saved(
    site: Site, store: Store, out: Path, tmp_path: Path
) -> None:
    """As a container or a service is stopped: nothing may be left when its first process ends."""
    with site.worker("gpu", tmp_path / "worker.log") as process:
        run, group = train(site, store, out)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert group_of(group) == []
        assert site.states(run)[-2:] == ["Running", "Crashed"]
        assert saved_step(out) > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_prefects_own_worker_leaves_no_training_behind(
    site: Site, store: Store, out: Path, how: str
) -> None:
    words = ["worker", "start", "--pool", "gpu", "--type", "process"]
    with service(words, site.folder, site.env, out.with_name("worker.log")) as process:
        run, group = train(site, store, out)
        process.send_signal(signal.SIGTERM if how == "stopped" else signal.SIGKILL)
        until(ended(site, run, group), "the end of the run")
        assert site.states(run)[-2:] == ["Running", "Crashed"]
        assert saved_step(out) > 0


@pytest.mark.slow
def test_a_killed_engine_is_crashed_and_the_next_run_takes_its_place(
    site: Site, store: Store, out: Path, tmp_path: Path
) -> None:
    with site.worker("gpu", tmp_path / "worker.log"):
        run, group = train(site, store, out)
        psutil.Process(group).kill()
        until(ended(site, run, group), "the end of the run")
        assert site.states(run)[-2:] == ["Running", "Crashed"]
        second, group = train(site, store, out.with_name("second"))
        site.cancel(second)
        until(ended(site, second, group), "the end of the second run")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_worker_tree_is_crashed_in_two_minutes_and_frees_the_pool(
    site: Site, store: Store, out: Path, tmp_path: Path
) -> None:
    """As a machine that lost its power. Only the missing heartbeats tell of it."""
    with site.worker("gpu", tmp_path / "worker.log") as process:
        run, _ = train(site, store, out)
        tree = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
        for pid in tree:
            os.kill(pid, signal.SIGKILL)
    queued = tmp_path / "queued"
    with site.worker("gpu", tmp_path / "second.log"):
        second = site.run(
            "pretrain", stores=[str(store.path)], out=str(queued), recipe="tiny", changes=ENDLESS
        )
        until(lambda: site.state(run) == "Crashed", "the automation")  # in 2 minutes
        assert not (queued / HISTORY).exists()  # the pool's one slot was held until now
        until((queued / HISTORY).exists, "the queued run")
        engine = engine_of(second)
        assert engine is not None
        site.cancel(second)
        until(ended(site, second, engine.pid), "the end of the queued run")


def test_a_run_without_its_folder_fails_with_one_line(site: Site, tmp_path: Path) -> None:
    """As on another machine than the one that has deployed."""
    deployment = site.deployment("demo")
    address = f"/deployments/{deployment['id']}"
    steps = [{STEP: {"directory": str(tmp_path / "elsewhere")}}]
    site.api.patch(address, json={"pull_steps": steps}).raise_for_status()
    run = site.run("demo")
    until(lambda: site.state(run) == "Failed", "the failure")
    [line] = site.api.get(f"/flow_runs/{run}").json()["state"]["message"].splitlines()
    assert line.startswith(f"{tmp_path / 'elsewhere'}: no such folder on {platform.node()}")
    site.api.patch(address, json={"pull_steps": deployment["pull_steps"]}).raise_for_status()


@pytest.mark.slow
def test_a_cancelled_preprocessing_leaves_no_process(site: Site, tmp_path: Path) -> None:
    """By the worker of the whole file. The pool of processes belongs to the run's group."""
    cohort = CohortSpec(patients=24, unlabelled=0, matrix=64, slices=24)
    archive = write_cohort(cohort, tmp_path / "made-up", workers=2).ratic
    parameters: dict[str, Any] = {
        "source": str(archive), "root": str(tmp_path / "stores"), "workers": 2,
    }  # fmt: skip
    run = site.run("preprocess", **parameters)
    find = (tmp_path / "stores").glob
    until(lambda: any(find("*/volumes/records/*/*")), "the first series", every_s=0.02)
    engine = engine_of(run)
    assert engine is not None
    assert len(group_of(engine.pid)) > 2
    stored = len(list(find("pretrain-*/volumes/records/*/*")))
    assert stored < cohort.patients
    site.cancel(run)
    until(ended(site, run, engine.pid), "the end of the run")
    assert site.states(run)[-2:] == ["Cancelling", "Cancelled"]
