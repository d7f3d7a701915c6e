"""Local processes that fill stores: how they start, how they stop, and that none outlives us."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Any

from voco_data.executors.worker import SeriesOutcome, SeriesTask, fill_batch
from voco_data.store.index import InputDigests
from voco_data.time_limit import end_when_stuck

Batch = Sequence[SeriesTask]
Known = Mapping[str, InputDigests]

TIME_LIMIT_S = 600.0
"""What one series may take; a large one takes seconds."""
LAST_S = 5.0
"""Between the ends of the first process and the last: all are told when nothing is left to do."""
_POLL_S = 0.01

_known: Known = {}
_stop: Event | None = None


class Pool:
    """Processes that take batches. Made by `pool`."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def submit(self, batch: Batch, *, again: bool = False) -> Future[list[SeriesOutcome]]:
        """Hand in a batch, `again` if a process that had it died.

        Raises BrokenProcessPool where no process can be had any more.
        """
        with (
            _ctrl_c_later(),
            _callers_script_hidden(),
        ):  # a pool starts its processes as work comes in
            try:
                return self._executor.submit(_fill, batch, again)
            except (EOFError, OSError) as error:  # the server that forks them has died
                raise BrokenProcessPool("no process could be started") from error


@contextmanager
def pool(workers: int, known: Known) -> Iterator[Pool]:
    """`workers` processes. At the end each finishes the series in hand, and no other."""
    # Forked from a server that has imported what they need, and runs no threads: a plain fork is
    # unsafe beside the threads of zarr and of a Prefect flow.
    context = _Recording()
    context.set_forkserver_preload(["voco_data.executors.worker"])
    _start_server()
    stop = context.Event()
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(known, stop)
    )
    try:
        yield Pool(executor)
    finally:
        stop.set()
        _end(executor, context.started)


class _Recording(ForkServerContext):
    """Remembers which processes were made."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[BaseProcess] = []

    def Process(self, *args: Any, **more: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802  the name is Python's
        process = super().Process(*args, **more)
        self.started.append(process)
        return process


def _end(executor: ProcessPoolExecutor, processes: Sequence[BaseProcess]) -> None:
    """Wait until all have ended, and end those that cannot.

    They are told to end one after the other, through a pipe whose lock a waiting process holds.
    One that is killed just then never gives it back, and the others would wait for ever.
    """
    executor.shutdown(wait=False)
    started = [process for process in processes if process.pid is not None]
    sentinels = [process.sentinel for process in started]
    if sentinels:
        connection.wait(sentinels)
        deadline = time.monotonic() + LAST_S
        while len(connection.wait(sentinels, timeout=0)) < len(sentinels):
            if time.monotonic() > deadline:
                for process in started:
                    process.kill()
                break
            time.sleep(_POLL_S)
    executor.shutdown()


def _start_server() -> None:
    """Start the server without Ctrl-C, which a terminal sends to all processes of a command.

    The coordinator decides. The server inherits a signal mask that holds SIGINT back, and so do
    the processes that it forks, from their first instruction on.
    """
    resource_tracker.ensure_running()  # before: starting it lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: a process half started would be nobody's to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True

    former = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if came:
        raise KeyboardInterrupt


@contextmanager
def _callers_script_hidden() -> Iterator[None]:
    """Processes that start in here do not run the caller's script again.

    Python would, to find what it defines; our workers need none of it, and a script without the
    usual `if __name__ == "__main__"` would start itself over and over.
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


def _start_worker(known: Known, stop: Event) -> None:
    global _known, _stop  # set once, before the process sees any work
    _known, _stop = known, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_coordinator, daemon=True).start()


def _end_with_the_coordinator() -> None:
    """A coordinator that was killed tells nobody: its workers would wait for work for ever.

    What a worker had in hand is whole or absent, as after any kill.
    """
    coordinator = multiprocessing.parent_process()
    assert coordinator is not None
    connection.wait([coordinator.sentinel])
    os._exit(1)


def _fill(batch: Batch, again: bool) -> list[SeriesOutcome]:
    outcomes = []
    for task in batch:
        if _stop is not None and _stop.is_set():
            break  # nobody waits for the rest; what is committed stays
        with end_when_stuck(TIME_LIMIT_S):
            outcomes += fill_batch([task], _known, TIME_LIMIT_S, again=again)
    return outcomes
