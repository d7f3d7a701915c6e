"""An executor over local processes: how they start and stop, and how series are retried.

A decoder that crashes takes its process with it, so nothing is read in the coordinator's own. No
process outlives the coordinator.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from voco_data.batching import batched
from voco_data.executors.tasks import (
    IN_FLIGHT_PER_WORKER,
    RETRY_POLICY,
    TIME_LIMIT_S,
    Batch,
    KnownInputs,
    RetryPolicy,
    SeriesOutcome,
    SeriesTask,
    WorkerDied,
    choose_batch_size,
    run_tasks,
)
from voco_data.executors.worker import fill_batch
from voco_data.limits import end_when_stuck
from voco_data.reasons import Reason
from voco_data.temporary_folders import folder_until_exit

log = logging.getLogger(__name__)

EXIT_GRACE_S = 5.0
"""Time between the end of the first process and that of the last, once there is no more work."""
_POLL_S = 0.01
_SERVER_PAUSE_S = 0.1
"""Time after a fork server has failed. One that was killed closes its pipes a moment before the
system reports its end, and until then no other is started."""
_MAX_SOCKET_FOLDER = 107 - len("/listener-12345678")
"""Characters of a folder whose sockets fit into `sun_path` of unix(7)."""
_PRELOADED = ["voco_data.executors.worker"]
"""Imported once, by the server that forks the processes."""

WORKER_DIED_DETAIL = (
    "every process that read it died (out of memory, a crash, or stuck in a decoder)"
)

_known_inputs: KnownInputs = {}
_stop: ctypes.c_bool | None = None


def run_processes(
    tasks: Sequence[SeriesTask],
    known_inputs: KnownInputs,
    workers: int,
    *,
    positions: Sequence[int] | None = None,
    series_per_batch: int | None = None,
    is_retry: bool = False,
    policy: RetryPolicy = RETRY_POLICY,
) -> Iterator[list[SeriesOutcome]]:
    """Run tasks over `workers` local processes, and retry by `policy` if processes die.

    `positions` selects some of the tasks. `is_retry`: workers elsewhere had these tasks, and died.
    """
    pending: Sequence[int] = range(len(tasks)) if positions is None else positions
    if not pending:
        return
    size = series_per_batch or choose_batch_size(len(pending), workers)
    with ProcessPool(workers, known_inputs) as pool:
        while True:
            lost = yield from run_tasks(pool, tasks, batched(pending, size), is_retry=is_retry)
            pending = list(chain.from_iterable(lost))
            largest = max(map(len, lost), default=0)
            if largest <= policy.max_size_read_alone:
                break
            size = choose_batch_size(len(pending), workers, largest // policy.shrink_factor)
            is_retry = True
    yield from _run_alone(tasks, known_inputs, pending)


def _run_alone(
    tasks: Sequence[SeriesTask], known_inputs: KnownInputs, positions: Sequence[int]
) -> Iterator[list[SeriesOutcome]]:
    """Read one series at a time in one process, and refuse each series that ends the process."""
    if not positions:
        return
    with ProcessPool(1, known_inputs) as pool:
        for position in positions:
            lost = yield from run_tasks(pool, tasks, [[position]], is_retry=True)
            if lost:
                task = tasks[position]
                yield [
                    SeriesOutcome(
                        key=task.key,
                        seen_key=task.seen_key,
                        reason=Reason.WORKER_DIED,
                        detail=WORKER_DIED_DETAIL,
                    )
                ]


class ProcessPool:
    """An executor over local processes. It starts new ones if one of them dies.

    At the end each process finishes the series that it is reading, and no other.
    """

    _context: _RecordingContext
    _executor: ProcessPoolExecutor
    _stop: ctypes.c_bool
    """Tells the processes to read no further series. It is in shared memory and has no lock: a
    process that is killed while it holds a lock would stop all others."""
    _is_broken: bool
    _handles: set[Future[list[SeriesOutcome]]]
    """Batches in flight in these processes, not in those that were ended before."""

    def __init__(self, workers: int, known_inputs: KnownInputs) -> None:
        self._workers = workers
        self._known_inputs = known_inputs
        self._start()

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        self._end()

    def max_in_flight(self) -> int:
        """Maximum number of batches in flight."""
        return self._workers * IN_FLIGHT_PER_WORKER

    def submit(self, batch: Batch, *, is_retry: bool) -> Future[list[SeriesOutcome]]:
        """Submit a batch. Raises WorkerDied if no process can be started, or one has just died."""
        if self._is_broken:
            self._end()
            self._start()
        # The executor starts its processes when work comes in.
        with _defer_signals(), _hide_main_module():
            try:
                handle = self._executor.submit(_fill_until_stopped, batch, is_retry)
            except (BrokenProcessPool, EOFError, OSError) as error:  # or the fork server has died
                self._is_broken = True
                time.sleep(_SERVER_PAUSE_S)
                raise WorkerDied from error
        self._handles.add(handle)
        return handle

    def wait(
        self, in_flight: Sequence[Future[list[SeriesOutcome]]]
    ) -> Iterable[Future[list[SeriesOutcome]]]:
        """Return the batches whose processes ended; if there are none, wait for a batch to end."""
        ended = [handle for handle in in_flight if handle not in self._handles]
        return ended or wait(in_flight, return_when=FIRST_COMPLETED).done

    def get_outcomes(self, handle: Future[list[SeriesOutcome]]) -> list[SeriesOutcome]:
        """Return the outcomes of a batch. If a process dies, all batches in flight are lost.

        Raises WorkerDied.
        """
        if handle not in self._handles:  # its outcomes may lack series that were not begun
            raise WorkerDied
        self._handles.remove(handle)
        try:
            return handle.result()
        except BrokenProcessPool as error:
            if not self._is_broken:
                log.warning("a worker process died; its series are tried again")
            self._is_broken = True
            raise WorkerDied from error

    def _start(self) -> None:
        # Processes are forked from a server that has imported what they need, and runs no threads:
        # a plain fork is unsafe beside the threads of zarr and of a Prefect flow.
        self._context = _RecordingContext()
        self._context.set_forkserver_preload(_PRELOADED)
        _start_server()
        self._stop = self._context.RawValue(ctypes.c_bool, False)
        self._is_broken = False
        self._handles = set()
        self._executor = ProcessPoolExecutor(
            self._workers,
            mp_context=self._context,
            initializer=_start_worker,
            initargs=(self._known_inputs, self._stop),
        )

    def _end(self) -> None:
        self._stop.value = True
        _end_processes(self._executor, self._context.started)


class _RecordingContext(ForkServerContext):
    """Records which processes were made."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[BaseProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802  the name is Python's
        process = super().Process(*args, **kwargs)
        self.started.append(process)
        return process


def _end_processes(executor: ProcessPoolExecutor, processes: Sequence[BaseProcess]) -> None:
    """Wait until all processes have ended, and kill those that cannot end.

    The executor tells them to end through a pipe, whose lock one waiting process holds at a time.
    If a process is killed while it holds the lock, the others wait for the lock forever.
    """
    executor.shutdown(wait=False, cancel_futures=True)
    started = [process for process in processes if process.pid is not None]
    sentinels = [process.sentinel for process in started]
    if sentinels:
        connection.wait(sentinels)
        deadline = time.monotonic() + EXIT_GRACE_S
        while len(connection.wait(sentinels, timeout=0)) < len(sentinels):
            if time.monotonic() > deadline:
                for process in started:
                    process.kill()
                break
            time.sleep(_POLL_S)
    executor.shutdown()


def _start_server() -> None:
    """Start the fork server with SIGINT blocked: a terminal sends Ctrl-C to all processes.

    The coordinator alone handles it. The server inherits the signal mask, and so do the processes
    that it forks, from their first instruction on.
    """
    _provide_socket_folder()
    resource_tracker.ensure_running()  # first, because starting it unblocks SIGINT
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _provide_socket_folder() -> None:
    """Give multiprocessing a folder for its sockets that a later run removes if this one is killed.

    Its own one would stay. There is no public setting: see `multiprocessing.util.get_temp_dir`.
    """
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if settings.get("tempdir") is None:
        folder = str(folder_until_exit())
        if len(folder) <= _MAX_SOCKET_FOLDER:
            settings["tempdir"] = folder


@contextmanager
def _defer_signals() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM at the end of the block only.

    If their handlers raised an exception while a process is being started, the process would not be
    recorded, and would never be ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    old_handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
    for received_number in dict.fromkeys(received):
        signal.raise_signal(received_number)


@contextmanager
def _hide_main_module() -> Iterator[None]:
    """Prevent processes that start in the block from importing the caller's script.

    Python imports it so that the processes find what the script defines. Ours need none of it, and
    a script without `if __name__ == "__main__"` would start itself again and again.
    """
    main = sys.modules["__main__"]
    names = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in names:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in names.items():
            setattr(main, name, value)


def _start_worker(known_inputs: KnownInputs, stop: ctypes.c_bool) -> None:
    """Set up a new process, before it gets any batch."""
    global _known_inputs, _stop
    _known_inputs, _stop = known_inputs, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_coordinator, daemon=True).start()


def _end_with_coordinator() -> None:
    """End this process when the coordinator has ended, even if it was killed.

    What this process was writing is then whole or absent, as after any kill.
    """
    coordinator = multiprocessing.parent_process()
    assert coordinator is not None
    connection.wait([coordinator.sentinel])
    os._exit(1)


def _fill_until_stopped(batch: Batch, is_retry: bool) -> list[SeriesOutcome]:
    """Fill a batch in a process, one series after the other, until the pool ends."""
    outcomes = []
    for task in batch:
        if _stop is not None and _stop.value:
            break  # the coordinator does not wait for the other series; what is committed stays
        with end_when_stuck(TIME_LIMIT_S):
            outcomes += fill_batch([task], _known_inputs, TIME_LIMIT_S, is_retry=is_retry)
    return outcomes
