"""The lock of a run folder: one process, or one group of processes, trains in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from voco_data.errors import InputError, StoreBusy
from voco_data.storage import locks
from voco_models.processes import is_first_process

LOCK = ".lock"


@contextmanager
def hold_run(out: Path) -> Iterator[None]:
    """Be the only one that trains in the folder `out`, which is made if it does not exist.

    Of several processes that train together, the first one holds the lock. It ends with its
    process, however this ends. Raises InputError if others train there.
    """
    with ExitStack() as stack:
        if is_first_process():
            try:
                stack.enter_context(locks.hold_lock(out / LOCK))
            except StoreBusy as error:
                raise InputError(
                    f"{out}: another process trains this run; wait for it to end, or give another "
                    "--out"
                ) from error
        yield
