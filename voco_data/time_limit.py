"""A time limit for one series: a refusal if Python runs on, the end of the process if C does."""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

GRACE_S = 30.0
"""What a decoder may take, in C, after the limit, until its process is ended."""


class _Expired(BaseException):
    """Not an Exception: the many handlers for what a hostile file may raise must not take it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise SeriesRefused(TIME_LIMIT) in the block once `seconds` have passed.

    A C call that does not return cannot be interrupted: `end_when_stuck` ends its process. Off
    the main thread, where Python takes no signals (a Dask worker's tasks), there is no limit.
    """
    if seconds == math.inf or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _Expired

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Expired:
        raise SeriesRefused(
            Reason.TIME_LIMIT, f"reading it takes longer than {seconds:g} s"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, former)


@contextmanager
def end_when_stuck(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer than `seconds` and GRACE_S.

    For processes that do one thing: the timer is the process's only one. It needs no GIL.
    """
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  os.devnull is no path of ours
        faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
