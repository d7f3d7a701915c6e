"""Folders of libraries, for a user who can write neither the package nor a home.

numba caches compiled code beside the source, else in the user's cache folder, and refuses to start
without one of them: a service that runs under any uid on a read-only image has neither. Matplotlib
makes a new folder in each process, with two lines on stderr.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from voco_data.temporary_folders import folder_until_exit

NUMBA, MATPLOTLIB = "NUMBA_CACHE_DIR", "MPLCONFIGDIR"
PACKAGE = Path(__file__).parent


def provide_cache_folders() -> None:
    """Set variables of numba and Matplotlib, which children inherit, if they would find no folder.

    The folders are in the temporary folder, and kept for the next run of this user. numba runs what
    it finds there, so a folder of that name that another user could write is not used.
    """
    if not (_is_writable_source() or _is_writable(_user_folder("XDG_CACHE_HOME", ".cache"))):
        _provide(NUMBA, "voco-numba")
    if not _is_writable(_user_folder("XDG_CONFIG_HOME", ".config")):
        _provide(MATPLOTLIB, "voco-matplotlib")


def _provide(variable: str, name: str) -> None:
    if os.environ.get(variable):
        return
    try:
        folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(folder):
            folder = folder_until_exit()
    except OSError:
        return  # no folder at all: the error of the library or of the temporary folder follows
    os.environ[variable] = str(folder)


def _is_writable_source() -> bool:
    """Whether the cache beside the source can be written; a sample of the packages tells."""
    return all(_is_writable(PACKAGE / name / "__pycache__") for name in ("cropping", "volumes"))


def _user_folder(variable: str, name: str) -> Path:
    """A folder of the XDG specification, by its variable or below the home."""
    base = os.environ.get(variable, "")
    return Path(base) if base else Path(os.environ.get("HOME", "/")) / name


def _is_writable(folder: Path) -> bool:
    """Whether a folder, or the folder above that exists, can be written."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _is_private(folder: Path) -> bool:
    """Whether a folder is no link, is this user's, and nobody else can write it."""
    status = folder.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return is_ours and not status.st_mode & others
