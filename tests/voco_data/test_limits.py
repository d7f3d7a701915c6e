"""A series that takes too long is refused; a process that is stuck in C is ended."""

from __future__ import annotations

import ctypes
import multiprocessing
import time

import pytest

from voco_data import limits as module
from voco_data.errors import SeriesRefused
from voco_data.limits import deadline, end_when_stuck
from voco_data.reasons import Reason


def spin() -> None:
    with deadline(0.2):
        while True:
            pass


def test_slow_python_is_refused_and_the_next_block_is_not() -> None:
    with pytest.raises(SeriesRefused) as caught:
        spin()
    assert caught.value.reason == Reason.TIME_LIMIT
    with deadline(0.2):
        pass
    time.sleep(0.3)  # the timer of a block that has ended does nothing


def stuck() -> None:
    module.GRACE_S = 0.1
    with end_when_stuck(0.2):
        ctypes.PyDLL(None).sleep(60)  # holds the GIL, as a C decoder may


def test_a_process_stuck_in_c_ends() -> None:
    process = multiprocessing.get_context("spawn").Process(target=stuck)
    process.start()
    process.join(30)
    assert process.exitcode not in (None, 0)
