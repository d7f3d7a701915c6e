"""The layout of a root: names of its stores and run folders, its lock, and how it is swept.

Other programs may write under a root too, such as a training run whose folder is there. A sweep
removes what `voco preprocess` itself makes, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voco_data.errors import InputError
from voco_data.storage import locks
from voco_data.storage.atomic import remove_temporaries, sweep_folder
from voco_data.storage.base import Storage
from voco_data.storage.urls import open_storage

LOCK = ".voco.lock"
PINS_FOLDER = "pins"
PREVIEWS_FOLDER = "previews"
PRIVATE_FOLDER = "private"
RUNS_FOLDER = "runs"
SEEN_FILES = "freshness.parquet"
"""What earlier runs learnt of the archive's files."""
SEEN_FILES_LOCK = "freshness.lock"
FINGERPRINT = "pseudonyms.fingerprint"
"""In the root of a bucket: which key its pseudonyms were made with."""
RUN_DESCRIPTION = "run.json"
"""In the folder of a training run: what it learns, and from which stores."""
SHARED_FOLDERS = (PREVIEWS_FOLDER, PRIVATE_FOLDER)
"""Folders of a root that all its runs write into, beside each run's own."""
REPORT = "report.html"
"""Name of a run's report inside its folder."""

STORE_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}-[0-9a-f]{12}\.zarr")
"""`<profile>-<digest>.zarr`; no other name under a root is taken for a store."""
RUN_ID = re.compile(r"\d{8}T\d{6}-preprocess-[0-9a-f]{6}")
"""Name of the folder of a preprocess run. Other folders below runs/ belong to other programs."""


def existing_root(root: str | Path | Storage) -> Storage:
    """The storage of a root that exists. Raises InputError."""
    home = open_storage(root)
    folder = home.local()
    if folder is not None and not folder.is_dir():
        raise InputError(f"{home}: expected a folder that voco preprocess made with --root")
    return home


def store_names(root: Storage) -> list[str]:
    """Folder names of the stores under a root, sorted; also of those that do not open."""
    return sorted(name for name in root.folders() if STORE_NAME.fullmatch(name))


def new_run_id() -> str:
    """A name for the run that ends now. Sorted by name, runs are sorted by time."""
    return f"{time.strftime('%Y%m%dT%H%M%S')}-preprocess-{secrets.token_hex(3)}"


def run_folders(root: Path) -> list[Path]:
    """Folders of the preprocess runs under a root of this machine."""
    return [path for path in (root / RUNS_FOLDER).glob("*") if RUN_ID.fullmatch(path.name)]


@contextmanager
def root_in_use(home: Storage) -> Iterator[None]:
    """Register a run that writes under `home`, while the block lasts.

    Stores have locks of their own. What all stores of a root share is swept by a run that finds
    no other run there, before it lets others in: the temporary file of a live run must stay. A
    bucket has no temporary files, so nothing is registered there.
    """
    root = home.local()
    if root is None:
        yield
        return
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(BlockingIOError):  # another run is writing here
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep_root(home)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a sweep at most
        yield
    finally:
        os.close(descriptor)


def sweep_idle_root(home: Storage, *, wait_seconds: float) -> None:
    """Sweep what all stores of a root share, once no run writes there.

    Raises StoreBusy if a run still writes after `wait_seconds`.
    """
    root = home.local()
    if root is not None:
        with locks.hold_lock(root / LOCK, wait_seconds=wait_seconds):
            sweep_root(home)


def sweep_root(home: Storage) -> None:
    """Remove temporary files of a root that no run uses, outside its stores."""
    root = home.local()
    assert root is not None
    remove_temporaries(root, [path.name for path in root.iterdir() if path.is_file()])
    folders = run_folders(root)
    for folder in (*(root / name for name in SHARED_FOLDERS), *folders):
        sweep_folder(folder)
    for run in folders:
        with contextlib.suppress(OSError):  # a folder with a ledger is not empty, and stays
            run.rmdir()
