"""The layout of a root: names of its stores and run folders, its lock, and its sweep.

A sweep removes the temporary files of killed runs. Other programs may write under a root too, such
as a training run. So a sweep visits only folders that `voco preprocess` itself writes to.
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
from voco_data.storage.base import ReadableStorage, Storage
from voco_data.storage.urls import open_storage

ROOT_LOCK = ".voco.lock"
PINS_FOLDER = "pins"
PREVIEWS_FOLDER = "previews"
PRIVATE_FOLDER = "private"
RUNS_FOLDER = "runs"
SEEN_FILES = "freshness.parquet"
"""Table of what earlier runs learnt of the archive's files. See `voco_data.ingest.seen_files`."""
SEEN_FILES_LOCK = "freshness.lock"
ID_MODE = "ids.mode"
"""File that tells whether the ids of a root are kept or pseudonyms: see
`voco_data.deidentification.id_mode`."""
ID_MODE_LOCK = "ids.mode.lock"
ARCHIVES = "archives.parquet"
"""Table of the series that each archive has held. See `voco_data.ingest.archives`."""
ARCHIVES_LOCK = "archives.lock"
FINGERPRINT = "pseudonyms.fingerprint"
"""Object in the root of a bucket that identifies the key of its pseudonyms."""
RUN_DESCRIPTION = "run.json"
"""File in the folder of a training run: recipe, and stores that it learns from."""
SHARED_FOLDERS = (PREVIEWS_FOLDER, PRIVATE_FOLDER)
"""Folders of a root that all of its runs write to, beside their run folders."""
REPORT = "report.html"
"""Name of a run's report inside its folder."""

STORE_SUFFIX = ".zarr"
STORE_NAME = re.compile(rf"[a-z][a-z0-9_]{{0,30}}-[0-9a-f]{{12}}{re.escape(STORE_SUFFIX)}")
"""`<profile>-<digest>.zarr`: the name of a store. No other folder of a root is one."""
RUN_ID = re.compile(r"\d{8}T\d{6}-preprocess-[0-9a-f]{6}")
"""Name of the folder of a preprocess run. Other folders in runs/ belong to other programs."""


def existing_root(root: str | Path | Storage) -> Storage:
    """The storage of a root. Raises InputError if it is a folder that does not exist."""
    storage = open_storage(root)
    folder = storage.local_folder()
    if folder is not None and not folder.is_dir():
        raise InputError(f"{storage}: expected a folder that voco preprocess made with --root")
    return storage


def store_names(root: ReadableStorage) -> list[str]:
    """Names of the stores of a root, sorted, those that cannot be opened included."""
    return sorted(name for name in root.list_folders() if STORE_NAME.fullmatch(name))


def new_run_id() -> str:
    """Make a name for the folder of a run that ends now. Names sort by time."""
    return f"{time.strftime('%Y%m%dT%H%M%S')}-preprocess-{secrets.token_hex(3)}"


def run_folders(root: Path) -> list[Path]:
    """Folders of the preprocess runs of a root on this machine."""
    return [path for path in (root / RUNS_FOLDER).glob("*") if RUN_ID.fullmatch(path.name)]


@contextmanager
def root_in_use(root: ReadableStorage) -> Iterator[None]:
    """Register a run that writes to `root`, until the block ends.

    Stores have locks of their own. The folders that all stores of a root share are swept by a run
    that finds no other run registered, before other runs can register. So the temporary files of a
    live run are kept. An object store has no temporary files, and no run is registered there.
    """
    folder = root.local_folder()
    if folder is None:
        yield
        return
    descriptor = os.open(folder / ROOT_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(BlockingIOError):  # another run is registered
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sweep(folder)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits at most for a sweep
        yield
    finally:
        os.close(descriptor)


def sweep_idle_root(root: ReadableStorage, *, wait_seconds: float) -> None:
    """Sweep the folders that all stores of a root share, once no run is registered.

    Raises StoreBusy if a run is still registered after `wait_seconds`.
    """
    folder = root.local_folder()
    if folder is not None:
        with locks.hold_lock(folder / ROOT_LOCK, wait_seconds=wait_seconds):
            _sweep(folder)


def _sweep(root: Path) -> None:
    """Remove the temporary files of a root outside its stores, and empty run folders."""
    remove_temporaries(root, [path.name for path in root.iterdir() if path.is_file()])
    runs = run_folders(root)
    for folder in [root / name for name in SHARED_FOLDERS] + runs:
        sweep_folder(folder)
    for run in runs:
        with contextlib.suppress(OSError):  # not empty: the run has a ledger
            run.rmdir()
