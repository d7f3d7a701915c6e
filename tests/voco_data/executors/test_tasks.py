"""Batches over real processes: sizes, and what a worker's death costs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.ct_files import body, write_slices
from voco_data.batching import batched
from voco_data.cohort import SeriesEntry
from voco_data.executors import dask, process_pool, tasks as module, worker
from voco_data.executors.process_pool import run_processes
from voco_data.executors.tasks import (
    MAX_BATCH_SIZE,
    RETRY_POLICY,
    Batch,
    RetryPolicy,
    SeriesOutcome,
    SeriesTask,
    Target,
    WorkerDied,
    choose_batch_size,
    run_tasks,
)
from voco_data.executors.worker import fill_series
from voco_data.reasons import Reason
from voco_data.storage.base import Storage
from voco_data.storage.local import LocalStorage
from voco_data.store.index import InputDigests
from voco_data.store.keys import chunk_key
from voco_data.store.record import SeriesIdentity, read_record, series_key
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import open_for_writing

SPEC = StoreSpec(profile="small", grid=(4, 8, 8))


class Bomb:
    """Ends the process that unpickles it, as a crash in a decoder would."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return (os._exit, (1,))


class Trap(type(Path())):  # type: ignore[misc]  # the concrete class of a path
    """Ends the process that asks for a file below it."""

    def __truediv__(self, other: object) -> Path:
        os._exit(1)


def key(index: int) -> str:
    return series_key(SeriesIdentity("p", "", f"s{index}"))


def tasks(folder: Path, store: Storage, count: int) -> list[SeriesTask]:
    made = []
    for index in range(count):
        paths = write_slices(folder / str(index), body((10, 20, 20), seed=index))
        files = tuple(str(path.relative_to(folder)) for path in paths)
        entry = SeriesEntry("dicom", "p", "", f"s{index}", str(index), files, f"{index:032x}")
        target = (Target(store, SPEC, index),)
        ids = ("dicom", "kept", "p", "", f"s{index}", "")
        task = SeriesTask(key(index), folder, entry, *ids, target, LocalStorage(folder))
        made.append(task)
    return made


def test_a_dead_worker_costs_its_series_and_no_other(tmp_path: Path) -> None:
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        todo = tasks(tmp_path / "ct", writer.storage, 6)
        todo[2] = replace(todo[2], layout=Bomb())  # type: ignore[arg-type]
        known = {writer.storage.name: InputDigests()}
        outcomes = {
            outcome.key: outcome for batch in run_processes(todo, known, 2) for outcome in batch
        }
    assert set(outcomes) == set(map(key, range(6)))
    assert outcomes[key(2)].reason == Reason.WORKER_DIED
    for index in (0, 1, 3, 4, 5):
        assert outcomes[key(index)].reason is None
        assert [record.row for record in outcomes[key(index)].records] == [index]


def test_a_series_that_memory_is_too_small_for_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = worker.prepare_series

    def prepare_in_little_memory(base: Path, entry: SeriesEntry, *rest: Any) -> Any:
        if entry.series_uid == "s1":
            raise MemoryError
        return prepare(base, entry, *rest)

    monkeypatch.setattr(worker, "prepare_series", prepare_in_little_memory)
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        known = {writer.storage.name: InputDigests()}
        todo = tasks(tmp_path / "ct", writer.storage, 3)
        outcomes = [fill_series(task, known) for task in todo]
    assert [outcome.reason for outcome in outcomes] == [None, Reason.WORKER_DIED, None]
    assert outcomes[1].detail == "out of memory"


def test_what_a_dead_worker_committed_is_not_read_again(tmp_path: Path) -> None:
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        todo = tasks(tmp_path / "ct", writer.storage, 20)
        todo[10] = replace(todo[10], base=Trap(todo[10].base))
        known = {writer.storage.name: InputDigests()}
        outcomes = {
            outcome.key: outcome
            for batch in run_processes(todo, known, 1, series_per_batch=20)
            for outcome in batch
        }
        for task in todo:
            expected = (
                () if task is todo[10] else (read_record(writer.storage, task.targets[0].row),)
            )
            assert outcomes[task.key].records == expected
    assert len(outcomes) == 20
    assert outcomes[key(10)].reason == Reason.WORKER_DIED
    assert all(outcomes[key(index)].was_committed for index in range(10))
    assert not any(outcomes[key(index)].was_committed for index in range(11, 20))


@pytest.mark.parametrize("harm", ["chunk", "record of another", "files changed"])
def test_only_what_is_whole_and_of_these_files_counts_as_committed(
    tmp_path: Path, harm: str
) -> None:
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        task, other = tasks(tmp_path / "ct", writer.storage, 2)
        known = {writer.storage.name: InputDigests()}
        first = fill_series(task, known)
        assert fill_series(task, known, is_retry=True) == replace(first, was_committed=True)
        chunk = writer.storage.path / chunk_key(0)
        if harm == "chunk":
            chunk.write_bytes(bytes(chunk.stat().st_size))
        elif harm == "record of another":
            fill_series(replace(other, targets=task.targets), known)
        else:
            task = replace(task, entry=replace(task.entry, stat_digest="f" * 32))
        found = fill_series(task, known, is_retry=True)
        assert not found.was_committed
        assert found.input_digest == first.input_digest
        assert read_record(writer.storage, 0) == found.records[0]
        assert fill_series(task, known, is_retry=True).was_committed


def test_who_dies_before_a_record_has_left_its_preview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run takes up records, and draws nothing for them."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("voco_data.executors.worker.commit_volume", die)
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        (task,) = tasks(tmp_path / "ct", writer.storage, 1)
        with pytest.raises(KeyboardInterrupt):
            fill_series(task, {writer.storage.name: InputDigests()})
    assert len(list(tmp_path.glob("ct/previews/*/*.jpg"))) == 1


def test_a_lost_file_and_a_bug_refuse_their_series_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("Doe^Jane")

    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        lost, other = tasks(tmp_path / "ct", writer.storage, 2)
        (tmp_path / "ct" / lost.entry.files[3]).unlink()
        known = {writer.storage.name: InputDigests()}
        assert fill_series(lost, known).reason == Reason.IO_ERROR
        monkeypatch.setattr("voco_data.executors.worker.prepare_series", fail)
        found = fill_series(other, known)
    assert found.reason == Reason.INTERNAL_ERROR
    assert "test_tasks.py" in found.detail
    assert "Doe" not in found.detail


def test_a_dask_worker_ends_a_batch_that_nobody_waits_for(tmp_path: Path) -> None:
    from dask.distributed import Client, LocalCluster

    with (
        open_for_writing(LocalStorage(tmp_path), SPEC) as writer,
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as local,
        Client(local, set_as_default=False) as client,
    ):
        todo = tasks(tmp_path / "ct", writer.storage, 60)
        known = {writer.storage.name: InputDigests()}
        batch = client.submit(dask.fill_on_worker, todo, known, pure=False)
        while not list(tmp_path.glob("*.zarr/volumes/records/*/*.json")):
            time.sleep(0.001)
        batch.cancel()
        client.submit(os.getpid, pure=False).result()  # its one thread is free
        assert len(list(tmp_path.glob("*.zarr/volumes/records/*/*.json"))) < 60


class Submitted:
    """A batch in flight: unlike a list, it can be the key of a dictionary."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


class DeadlyPool:
    """An executor without processes: a batch with a deadly task is lost."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> DeadlyPool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def max_in_flight(self) -> int:
        return 4

    def submit(self, batch: Batch, *, is_retry: bool) -> Submitted:
        return Submitted(batch)

    def wait(self, in_flight: Sequence[Submitted]) -> Sequence[Submitted]:
        return in_flight[:1]

    def get_outcomes(self, handle: Submitted) -> list[SeriesOutcome]:
        if any(map(is_deadly, handle.batch)):
            raise WorkerDied
        return [SeriesOutcome(task.key) for task in handle.batch]


def is_deadly(task: SeriesTask) -> bool:
    return int(task.key) % 20 == 0


def test_however_many_series_end_their_process_the_tries_come_to_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One in twenty: no batch of more than 16 is without, and none of 16 or fewer has two."""
    rounds: list[tuple[int, bool]] = []

    def recorded(
        executor: Any, todo: Any, batches: Iterable[Sequence[int]], *, is_retry: bool
    ) -> Iterator[Any]:
        batches = list(batches)
        rounds.append((max(map(len, batches)), is_retry))
        return (yield from run_tasks(executor, todo, batches, is_retry=is_retry))

    monkeypatch.setattr(process_pool, "ProcessPool", DeadlyPool)
    monkeypatch.setattr(process_pool, "run_tasks", recorded)
    numbers: Any = [SimpleNamespace(key=str(number), seen_key="") for number in range(10_000)]
    found = [one for batch in run_processes(numbers, {}, 2) for one in batch]
    assert sorted(int(one.key) for one in found) == list(range(10_000))
    died = {int(one.key) for one in found if one.reason == Reason.WORKER_DIED}
    assert died == set(range(0, 10_000, 20))
    sizes = [size for size, _ in rounds if size > 1]
    assert sizes == [MAX_BATCH_SIZE, MAX_BATCH_SIZE // 4, MAX_BATCH_SIZE // 16]
    assert (sizes[-1], RETRY_POLICY.shrink_factor, RETRY_POLICY.max_size_read_alone) == (16, 4, 16)
    assert [is_retry for _, is_retry in rounds] == [False, *(True for _ in rounds[1:])]
    # All that is left in batches of 16 is read alone: each deadly series, and 15 beside it.
    assert len(rounds) - len(sizes) == len(died) * RETRY_POLICY.max_size_read_alone


@pytest.mark.parametrize(
    ("failing", "size"),
    [
        ({2}, 3),
        ({1, 2, 3, 4, 5}, 1),
        pytest.param({1, 2, 3, 4}, 1, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_cannot_be_started_loses_no_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: set[int], size: int
) -> None:
    """The other processes are ended, too; what they had begun is not taken for the whole batch.

    Two workers have four batches in flight. If none of the first four can be submitted, the others
    still are.
    """
    submit = ProcessPoolExecutor.submit
    calls = 0

    def fail_some(self: ProcessPoolExecutor, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in failing:
            raise OSError("no process")
        return submit(self, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", fail_some)
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        todo = tasks(tmp_path / "ct", writer.storage, 12)
        known = {writer.storage.name: InputDigests()}
        found = [
            one for batch in run_processes(todo, known, 2, series_per_batch=size) for one in batch
        ]
    assert sorted(one.key for one in found) == sorted(map(key, range(12)))
    assert all(one.reason is None for one in found)


def test_a_cluster_of_our_own_gets_the_allowed_failures_of_the_policy() -> None:
    with dask._connect("local", 1, {}, RetryPolicy(cluster_tries=3)) as cluster:
        assert cluster.client.cluster.scheduler.allowed_failures == 2


def test_a_dask_worker_that_dies_costs_its_series_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCHES_PER_WORKER", 2)
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        todo = tasks(tmp_path / "ct", writer.storage, 4)
        todo[1] = replace(todo[1], base=Trap(todo[1].base))
        known = {writer.storage.name: InputDigests()}
        outcomes = {
            outcome.key: outcome
            for batch in dask.run_dask(todo, known, "local", 1)
            for outcome in batch
        }
    assert outcomes.pop(key(1)).reason == Reason.WORKER_DIED
    assert {key for key, outcome in outcomes.items() if outcome.reason is None} == {
        key(0),
        key(2),
        key(3),
    }


@pytest.mark.parametrize(
    ("series", "workers", "size"), [(1, 2, 1), (31, 2, 1), (640, 2, 20), (100_000, 2, 256)]
)
def test_batches_cover_everything_once_and_stay_small(series: int, workers: int, size: int) -> None:
    numbers: Any = list(range(series))
    cut = list(batched(numbers, choose_batch_size(series, workers)))
    assert [number for batch in cut for number in batch] == numbers
    assert max(len(batch) for batch in cut) == size


@pytest.mark.parametrize(
    ("series", "threads", "size", "most"),
    [
        (640, 2, 20, 32),
        (100_000, 16, 256, 391),
        (131_072, 16, 256, 512),
        (1_000_000, 16, 1954, 512),
        (1_000_000, 100, 625, 1600),  # more batches, so that 100 workers end together
    ],
)
def test_a_large_archive_has_larger_batches_on_a_cluster(
    series: int, threads: int, size: int, most: int
) -> None:
    cut = list(
        batched(range(series), choose_batch_size(series, threads, dask.max_batch_size(series)))
    )
    assert [number for piece in cut for number in piece] == list(range(series))
    assert max(map(len, cut)) == size
    assert len(cut) == most
