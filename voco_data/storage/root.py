"""What killed runs leave behind: temporary files, and folders of runs that wrote nothing.

Others may write under a root too: a training run whose folder lies there. What we sweep is what
`voco preprocess` itself makes, and no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voco_data.storage import atomic, locks, run_folders
from voco_data.storage.base import Place

LOCK = ".voco.lock"
SHARED_FOLDERS = ("previews", "private")
"""Folders of a root that all its runs write into, beside each run's own."""


@contextmanager
def using(home: Place) -> Iterator[None]:
    """Say that a run writes under `home`, while the block lasts.

    Stores have locks of their own. What all stores of a root share is swept by a run that finds
    no other, before it lets others in: the temporary file of a run that lives is not a leftover. A
    bucket has none.
    """
    root = home.local()
    if root is None:
        yield
        return
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(BlockingIOError):  # another run is here
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep_root(home)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a sweep at most
        yield
    finally:
        os.close(descriptor)


def sweep_alone(home: Place, *, wait_seconds: float) -> None:
    """Sweep what all stores of a root share, once no run writes there.

    Raises StoreBusy if one still does after `wait_seconds`.
    """
    root = home.local()
    if root is not None:
        with locks.exclusive(root / LOCK, wait_seconds=wait_seconds):
            sweep_root(home)


def sweep_store(place: Place) -> None:
    """Remove all temporary files below a store whose lock we hold."""
    store = place.local()
    if store is not None:
        _sweep(store)


def sweep_root(home: Place) -> None:
    """Remove temporary files of a root that nobody else uses, outside its stores."""
    root = home.local()
    assert root is not None
    _remove_temporaries(root, [path.name for path in root.iterdir() if path.is_file()])
    ours = run_folders.folders(root)
    for folder in (*(root / name for name in SHARED_FOLDERS), *ours):
        _sweep(folder)
    for run in ours:
        with contextlib.suppress(OSError):  # a folder with a ledger stays
            run.rmdir()


def _sweep(top: Path) -> None:
    for folder, _, names in os.walk(top):
        _remove_temporaries(Path(folder), names)


def _remove_temporaries(folder: Path, names: list[str]) -> None:
    for name in names:
        if atomic.is_temporary(name):
            (folder / name).unlink(missing_ok=True)
