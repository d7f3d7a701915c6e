"""A worker commits for its own run while that run lasts, and for no other run."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from tests.support import store_truth
from tests.support.small_stores import make_record
from voco_data.errors import StoreBusy, VocoError
from voco_data.storage import locks
from voco_data.storage.base import Storage
from voco_data.storage.local import LocalStorage
from voco_data.store.record import Record
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import commit_volume, open_for_writing

SPEC = StoreSpec(profile="small", grid=(2, 4, 4))
VOLUME = np.ones(SPEC.grid, np.uint8)
OVER = "the run that this worker belongs to is over"


def record() -> Record:
    return make_record(0, VOLUME, SPEC, "s")


def handed_out(root: Path) -> bytes:
    """The pickled storage that a run gave to a worker; the run is over."""
    with open_for_writing(LocalStorage(root), SPEC) as writer:
        writer.assign_rows([record().key])
        return pickle.dumps(writer.storage)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_worker_commits_while_its_run_lasts(tmp_path: Path) -> None:
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        writer.assign_rows([record().key])
        commit_volume(pickle.loads(pickle.dumps(writer.storage)), record(), VOLUME)
        writer.add_record(record())
        writer.compact()
    store_truth.check_finished(tmp_path)


def test_a_worker_that_does_not_see_the_root_says_so(tmp_path: Path) -> None:
    late: Storage = pickle.loads(handed_out(tmp_path / "root"))
    (tmp_path / "root").rename(tmp_path / "elsewhere")
    with pytest.raises(VocoError, match="every worker must see the root under the same path"):
        commit_volume(late, record(), VOLUME)


def test_a_worker_of_a_run_that_ended_writes_nothing(tmp_path: Path) -> None:
    late: Storage = pickle.loads(handed_out(tmp_path))
    before = files(tmp_path)
    with pytest.raises(StoreBusy, match=OVER):
        commit_volume(late, record(), VOLUME)
    assert files(tmp_path) == before


def test_a_worker_of_a_run_that_was_killed_writes_nothing_in_the_next(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    run = context.Process(target=_hand_out_and_hang, args=(tmp_path, its))
    run.start()
    late: Storage = pickle.loads(mine.recv_bytes())
    run.kill()
    run.join()
    with late.committing():  # allowed: no other run has begun
        pass
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        before = files(tmp_path)
        with pytest.raises(StoreBusy, match=OVER):
            commit_volume(late, record(), VOLUME)
        assert files(tmp_path) == before
        commit_volume(writer.storage, record(), VOLUME)


def _hand_out_and_hang(root: Path, pipe: multiprocessing.connection.Connection) -> None:
    with open_for_writing(LocalStorage(root), SPEC) as writer:
        pipe.send_bytes(pickle.dumps(writer.storage))
        threading.Event().wait()


@pytest.mark.parametrize("repairs", [True, False])
def test_the_next_holder_of_the_lock_keeps_late_workers_out(tmp_path: Path, repairs: bool) -> None:
    """Also `gc` and `forget`, which have no workers."""
    late = LocalStorage(tmp_path / SPEC.name)
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        token = locks.Fence(tmp_path / f".{SPEC.name}.fence").path.read_text()
        late = pickle.loads(pickle.dumps(writer.storage))
    (tmp_path / f".{SPEC.name}.fence").write_text(token)  # as if that run had been killed
    with (
        LocalStorage(tmp_path).lock(f".{SPEC.name}.lock", wait_seconds=0, repairs=repairs),
        pytest.raises(StoreBusy, match=OVER),
        late.committing(),
    ):
        raise AssertionError


def test_a_store_that_was_removed_does_not_come_back(tmp_path: Path) -> None:
    late: Storage = pickle.loads(handed_out(tmp_path))
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(StoreBusy, match=OVER):
        commit_volume(late, record(), VOLUME)
    assert list(tmp_path.iterdir()) == []


def _commit_slowly(storage: bytes, began: Event, end: Event) -> None:
    worker: Storage = pickle.loads(storage)
    with worker.committing():
        began.set()
        end.wait(60)


def test_a_commit_under_way_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context = multiprocessing.get_context("spawn")
    began, end = context.Event(), context.Event()
    monkeypatch.setattr(locks, "COMMIT_WAIT_SECONDS", 0.2)
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        storage = pickle.dumps(writer.storage)
        worker = context.Process(target=_commit_slowly, args=(storage, began, end))
        worker.start()
        assert began.wait(60)
    assert "workers of this run may still be writing" in caplog.text
    busy = pytest.raises(StoreBusy, match=r"workers of a run that is over .* for 0\.2 s")
    with busy, open_for_writing(LocalStorage(tmp_path), SPEC):
        raise AssertionError
    monkeypatch.setattr(locks, "COMMIT_WAIT_SECONDS", 60.0)
    threading.Timer(0.3, end.set).start()
    with open_for_writing(LocalStorage(tmp_path), SPEC):
        assert end.is_set()
    worker.join()
    assert worker.exitcode == 0
