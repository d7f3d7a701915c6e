"""How a pool of processes ends when one of them was killed at the wrong moment."""

from __future__ import annotations

import multiprocessing
import signal
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from voco_data.executors import process_pool


def test_who_waits_for_a_lock_of_the_dead_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last to end never hears that it should: its neighbour was killed with the pipe's lock."""
    monkeypatch.setattr(process_pool, "EXIT_GRACE_S", 0.2)
    context = multiprocessing.get_context("spawn")
    quick, stuck = context.Process(target=int), context.Process(target=time.sleep, args=(600,))
    quick.start()
    stuck.start()
    never_started = context.Process(target=int)
    process_pool._end_processes(
        ProcessPoolExecutor(1, mp_context=context), [quick, stuck, never_started]
    )
    stuck.join(10)
    assert quick.exitcode == 0
    assert stuck.exitcode == -9


def test_a_pool_that_got_no_work_ends() -> None:
    with process_pool.ProcessPool(2, {}):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_until_a_process_is_recorded(number: signal.Signals) -> None:
    """An exception of a handler in between would leave a process that nothing ends."""
    received = []
    before = signal.signal(number, lambda number, _: received.append(number))
    try:
        with process_pool._defer_signals():
            signal.raise_signal(number)
            assert received == []
        assert received == [number]
    finally:
        signal.signal(number, before)
