"""A series that takes too long is refused; a process that is stuck in C is ended."""

from __future__ import annotations

import ctypes
import multiprocessing
import time
import weakref
from collections.abc import Callable

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


def wait(seconds: float) -> None:
    """Run Python code for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


class Finalised:
    """Takes long to be removed. Python ignores exceptions in `__del__`."""

    def __del__(self) -> None:
        wait(0.3)


class Referenced:
    pass


def remove_object() -> None:
    del [Finalised()][0]


def remove_referenced_object() -> None:
    watched = Referenced()
    finalizer = weakref.finalize(watched, wait, 0.3)
    del watched
    assert not finalizer.alive


@pytest.mark.parametrize("remove", [remove_object, remove_referenced_object])
def test_time_that_ends_where_python_ignores_exceptions_is_not_forgotten(
    remove: Callable[[], None],
) -> None:
    """pytest makes an ignored exception an error, too."""

    def remove_and_wait() -> None:
        with deadline(0.1):
            remove()
            wait(20)

    with pytest.raises(SeriesRefused) as caught:
        remove_and_wait()
    assert caught.value.reason == Reason.TIME_LIMIT
    time.sleep(0.2)  # no timer is left


def stuck() -> None:
    module.GRACE_S = 0.1
    with end_when_stuck(0.2):
        ctypes.PyDLL(None).sleep(60)  # holds the GIL, as a C decoder may


def test_a_process_stuck_in_c_ends() -> None:
    process = multiprocessing.get_context("spawn").Process(target=stuck)
    process.start()
    process.join(30)
    assert process.exitcode not in (None, 0)
