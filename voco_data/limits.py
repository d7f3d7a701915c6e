"""Limits that no real scan exceeds: the size of a volume, and the time that a series may take.

Sizes are checked before memory is allocated for them. A series that takes too long is refused if
Python code is running; if C code is running, its process is ended.
"""

from __future__ import annotations

import _weakrefset
import faulthandler
import math
import os
import signal
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

MAX_VOXELS = 2**31
"""4 GiB of int16: twice the largest volume of FLARE23 (796 x 512 x 2471)."""

MAX_PIXELS = 8192 * 8192
"""Largest product of the rows and columns of one plane."""

MAX_COORDINATE_MM = 1e5
"""Largest absolute position or spacing: a hundred metres. Scanners move their tables by two."""

GRACE_S = 30.0
"""Time between the limit and the end of a process that does not return from C code."""


def check_voxels(shape: tuple[int, ...]) -> None:
    """Raise SeriesRefused(BAD_GEOMETRY) for a shape that is empty or too large for a worker."""
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise SeriesRefused(Reason.BAD_GEOMETRY, f"a size of {shape} voxels")


def check_plane(shape: tuple[int, ...]) -> None:
    """Raise SeriesRefused(BAD_GEOMETRY) for a plane that is read at once and is too large."""
    if math.prod(shape) > MAX_PIXELS:
        raise SeriesRefused(Reason.BAD_GEOMETRY, f"a plane of {shape} voxels")


def check_slice_count(count: int, minimum: int) -> None:
    """Raise SeriesRefused(TOO_FEW_SLICES) for fewer than `minimum` slices."""
    if count < minimum:
        slices = "slice" if count == 1 else "slices"
        raise SeriesRefused(
            Reason.TOO_FEW_SLICES, f"{count} {slices}, at least {minimum} are needed"
        )


def check_scanner_range(name: str, values_mm: Iterable[float]) -> None:
    """Raise SeriesRefused(BAD_GEOMETRY) for a position or spacing beyond MAX_COORDINATE_MM."""
    for value in values_mm:
        if not abs(value) <= MAX_COORDINATE_MM:
            raise SeriesRefused(
                Reason.BAD_GEOMETRY,
                f"{name} is {value:.3g} mm, and no scanner goes beyond {MAX_COORDINATE_MM:g} mm",
            )


RETRY_S = 0.05
"""Time until a timer is tried again that went off where an exception would be ignored."""
AGAIN_S = 1.0
"""Time until an exception of the timer that was ignored after all is raised again."""
_CALLBACK_FILES = (weakref.__file__, _weakrefset.__file__)


class _Expired(BaseException):
    """Raised by the timer. Not an Exception: handlers for hostile files must not catch it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise SeriesRefused(TIME_LIMIT) in the block once `seconds` have passed.

    A C call that does not return cannot be interrupted: `end_when_stuck` ends its process. Python
    handles signals in the main thread only, so there is no limit in other threads, such as those
    of a Dask worker.
    """
    if seconds == math.inf or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, frame: FrameType | None) -> None:
        if _ignores_exceptions(frame):
            signal.setitimer(signal.ITIMER_REAL, RETRY_S, AGAIN_S)
            return
        raise _Expired

    old_handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    except _Expired:
        raise SeriesRefused(
            Reason.TIME_LIMIT, f"reading it takes longer than {seconds:g} s"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old_handler)


def _ignores_exceptions(frame: FrameType | None) -> bool:
    """Whether Python calls the frame while it removes an object: it then ignores exceptions."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename in _CALLBACK_FILES:
            return True
        frame = frame.f_back
    return False


@contextmanager
def end_when_stuck(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer than `seconds` and GRACE_S.

    The timer does not need the GIL. There is one in a process, so only one thread may use it.
    """
    with open(os.devnull, "w") as null:  # noqa: PTH123  faulthandler needs a file descriptor
        faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=null)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
