"""One writer a store: an advisory `flock` that dies with its process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voco_data.errors import StoreBusy

_POLL_SECONDS = 0.2


@contextmanager
def hold_lock(
    path: Path, *, wait_seconds: float = 0.0, mode: int = 0o644, tidies: bool = True
) -> Iterator[bool]:
    """Hold the lock file `path`; yields whether its last holder ended well.

    The holder's process id stays in the file unless the block ends without an exception. One who
    does not put in order what the holder before left, not `tidies`, leaves that mark as it is.
    Raises StoreBusy when another process still holds it after `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        _acquire(descriptor, path, wait_seconds)
        ended_well = os.fstat(descriptor).st_size == 0
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield ended_well
        if tidies or ended_well:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # closing releases the lock


def _acquire(descriptor: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
                raise StoreBusy(
                    f"{path.parent}: another run (process {holder}) is writing here; "
                    "wait for it, or give --wait SECONDS"
                ) from None
            time.sleep(_POLL_SECONDS)
