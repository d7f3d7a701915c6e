"""Batches over real processes: sizes, and what a worker's death costs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ct_files import body, write_slices
from voco_data import fanout
from voco_data.cohort import SeriesEntry
from voco_data.folder import Folder
from voco_data.known import KnownInputs
from voco_data.place import Place
from voco_data.reasons import Reason
from voco_data.spec import StoreSpec
from voco_data.store_writer import writing
from voco_data.worker import SeriesTask, Target

SPEC = StoreSpec(profile="small", grid=(4, 8, 8))


class Bomb:
    """Ends the process that unpickles it, as a crash in a decoder would."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return (os._exit, (1,))


class Trap(type(Path())):  # type: ignore[misc]  # the concrete class of a path
    """Ends the process that asks for a file below it."""

    def __truediv__(self, other: object) -> Path:
        os._exit(1)


def tasks(folder: Path, store: Place, count: int) -> list[SeriesTask]:
    made = []
    for index in range(count):
        paths = write_slices(folder / str(index), body((10, 20, 20), seed=index))
        files = tuple(str(path.relative_to(folder)) for path in paths)
        entry = SeriesEntry("dicom", "p", "", f"s{index}", str(index), files, f"{index:032x}")
        target = (Target(store, SPEC, index),)
        ids = ("dicom", "kept", "p", "", f"s{index}", "")
        task = SeriesTask(f"k{index}", folder, entry, *ids, target, Folder(folder))
        made.append(task)
    return made


def test_a_dead_worker_costs_its_series_and_no_other(tmp_path: Path) -> None:
    with writing(Folder(tmp_path), SPEC) as writer:
        todo = tasks(tmp_path / "ct", writer.place, 6)
        todo[2] = replace(todo[2], layout=Bomb())  # type: ignore[arg-type]
        known = {writer.place.name: KnownInputs()}
        outcomes = {
            outcome.key: outcome
            for batch in fanout.run_processes(fanout.batches(todo, 2), known, 2)
            for outcome in batch
        }
    assert set(outcomes) == {f"k{index}" for index in range(6)}
    assert outcomes["k2"].reason == Reason.WORKER_DIED
    for index in (0, 1, 3, 4, 5):
        assert outcomes[f"k{index}"].reason is None
        assert [record.row for record in outcomes[f"k{index}"].records] == [index]


def test_a_dask_worker_that_dies_costs_its_series_and_no_other(tmp_path: Path) -> None:
    with writing(Folder(tmp_path), SPEC) as writer:
        todo = tasks(tmp_path / "ct", writer.place, 4)
        todo[1] = replace(todo[1], base=Trap(todo[1].base))
        known = {writer.place.name: KnownInputs()}
        outcomes = {
            outcome.key: outcome
            for batch in fanout.run_dask([todo[:2], todo[2:]], known, "local", 1)
            for outcome in batch
        }
    assert outcomes.pop("k1").reason == Reason.WORKER_DIED
    assert {key for key, outcome in outcomes.items() if outcome.reason is None} == {
        "k0",
        "k2",
        "k3",
    }


@pytest.mark.parametrize(
    ("series", "workers", "size"), [(1, 2, 1), (31, 2, 1), (640, 2, 20), (100_000, 2, 256)]
)
def test_batches_cover_everything_once_and_stay_small(series: int, workers: int, size: int) -> None:
    numbers: Any = list(range(series))
    cut = list(fanout.batches(numbers, workers))
    assert [number for batch in cut for number in batch] == numbers
    assert max(len(batch) for batch in cut) == size
