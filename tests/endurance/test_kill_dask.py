"""A Dask cluster of separate processes: its worker, its scheduler and its client are killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import store_truth
from tests.support.chaos import Chaos
from tests.support.chaos_archive import words
from tests.support.dask_cluster import LIMIT_S, Cluster, Gate


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Gate | None], Cluster]]:
    made: list[Cluster] = []

    def one(gate: Gate | None = None) -> Cluster:
        made.append(Cluster(tmp_path / "cluster", gate))
        return made[-1]

    yield one
    for cluster in made:
        cluster.close()


def begin(chaos: Chaos, cluster: Cluster, root: Path) -> int:
    line = words(chaos.archives["first"], root, chaos.specs, "--dask", cluster.address)
    return chaos.zygote.start(line, chaos.log)


def wait_for_records(chaos: Chaos, root: Path, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while len(list(root.glob("other*.zarr/volumes/records/*/*.json"))) < count:
        assert time.monotonic() < deadline, chaos.log.read_text()
        time.sleep(0.002)


def last_line(said: str) -> str:
    return said.replace("\r", "\n").splitlines()[-1]


def check_said(code: int, said: str) -> None:
    """Without a scheduler: one line of ours at the end, and none of Dask's."""
    assert code in (0, 1), said  # it may just have ended
    if code == 1:
        assert last_line(said).startswith("voco preprocess: error: the Dask scheduler is gone")
    assert "Traceback" not in said, said
    assert "distributed" not in said, said


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_worker_dies(chaos: Chaos, start: Callable[..., Cluster], after: int) -> None:
    cluster, root = start(), chaos.fresh_root("dask", "first")
    begin(chaos, cluster, root)
    wait_for_records(chaos, root, after)
    cluster.workers[0].kill()
    code, said = chaos.zygote.end(), chaos.log.read_text()
    assert code == 0, said
    chaos.check_resumes("first", root, said, shared=True)


@pytest.mark.parametrize(
    "after", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 3, 4, 5, 6, 7))]
)
def test_the_scheduler_dies(chaos: Chaos, start: Callable[..., Cluster], after: int) -> None:
    cluster, root = start(), chaos.fresh_root("dask", "first")
    begin(chaos, cluster, root)
    wait_for_records(chaos, root, after)
    cluster.scheduler.kill()
    code, said = chaos.zygote.end(), chaos.log.read_text()
    if after == 0:  # before the run had found it
        assert code == 2
        assert "no scheduler answers there" in last_line(said)
    else:
        check_said(code, said)
    chaos.check_resumes("first", root, said, shared=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_the_scheduler_dies_at_a_random_moment(
    chaos: Chaos, start: Callable[..., Cluster], seed: int
) -> None:
    cluster, root = start(), chaos.fresh_root("dask", "first")
    cluster.settle()
    begin(chaos, cluster, root)
    time.sleep(random.Random(seed).uniform(1.0, 4.0))
    cluster.scheduler.kill()
    code, said = chaos.zygote.end(), chaos.log.read_text()
    if code == 2:
        assert "no scheduler answers there" in last_line(said)
    else:
        check_said(code, said)
    chaos.check_resumes("first", root, said, shared=True)


@pytest.mark.slow
def test_a_scheduler_that_stands_still_is_as_good_as_gone(
    chaos: Chaos, start: Callable[..., Cluster]
) -> None:
    cluster, root = start(), chaos.fresh_root("dask", "first")
    begin(chaos, cluster, root)
    wait_for_records(chaos, root, 2)
    cluster.scheduler.send_signal(signal.SIGSTOP)
    code, said = chaos.zygote.end(), chaos.log.read_text()
    check_said(code, said)
    chaos.check_resumes("first", root, said, shared=True)


def test_workers_that_outlive_their_client_change_nothing(
    chaos: Chaos, start: Callable[..., Cluster]
) -> None:
    """The client is killed, the same run goes on here and ends, then its old workers wake up."""
    cluster, root = start("commit"), chaos.fresh_root("dask", "first")
    pid = begin(chaos, cluster, root)
    cluster.wait_for_late_workers()
    os.kill(pid, signal.SIGKILL)
    assert chaos.zygote.end() == -9
    chaos.check_resumes("first", root, "", shared=True)
    before = store_truth.committed(root)
    cluster.open_gate()
    cluster.settle()
    assert cluster.refusals()
    assert all("the run that this worker belongs to is over" in why for why in cluster.refusals())
    store_truth.check_finished(root)
    assert store_truth.committed(root) == before
    assert store_truth.snapshot(root) == chaos.expected["first"]


@pytest.mark.slow
def test_a_worker_in_the_middle_of_a_commit_holds_up_the_next_run(
    chaos: Chaos, start: Callable[..., Cluster]
) -> None:
    cluster, root = start("record"), chaos.fresh_root("dask", "first")
    pid = begin(chaos, cluster, root)
    cluster.wait_for_late_workers()
    os.kill(pid, signal.SIGKILL)
    assert chaos.zygote.end() == -9
    line = words(chaos.archives["first"], root, chaos.specs)
    assert chaos.zygote.run(line, chaos.log, shared=True) == 1
    assert "workers of a run that is over have been writing" in last_line(chaos.log.read_text())
    cluster.open_gate()
    cluster.settle()
    assert store_truth.committed(root)  # what it had in hand was committed
    chaos.check_resumes("first", root, "", shared=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_the_client_dies_at_a_random_moment(
    chaos: Chaos, start: Callable[..., Cluster], seed: int
) -> None:
    """Its workers are left alone, and the next run starts at once."""
    cluster, root = start(), chaos.fresh_root("dask", "first")
    pid = begin(chaos, cluster, root)
    wait_for_records(chaos, root, 1)
    time.sleep(random.Random(seed).uniform(0.0, 0.5))
    os.kill(pid, signal.SIGKILL)
    assert chaos.zygote.end() in (0, -9)
    chaos.go("first", root, shared=True)
    store_truth.check_finished(root)
    before = store_truth.committed(root)
    cluster.settle()
    store_truth.check_finished(root)
    assert store_truth.committed(root) == before
    assert store_truth.snapshot(root) == chaos.expected["first"]


def test_a_cluster_of_our_own_ends_without_a_word(chaos: Chaos) -> None:
    root = chaos.fresh_root("dask", "first")
    line = words(chaos.archives["first"], root, chaos.specs, "--dask", "local")
    assert chaos.zygote.run(line, chaos.log) == 0
    said = chaos.log.read_text().replace("\r", "\n").splitlines()
    shown = ("preprocess:", "find:", "index:", "8 series:", "{")
    assert [text for text in said if text and not text.startswith(shown)] == []
    store_truth.check_finished(root)
    assert store_truth.snapshot(root) == chaos.expected["first"]
