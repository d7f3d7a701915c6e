"""Temporary folders that a later run removes if their process was killed.

A folder is named `voco-<host>-<user>-<random>`, or with a dot before. Its process holds a `flock`
on the file `lock` inside, which the kernel frees when the process ends, however it ends. A folder
is removed by another process only if it is of the same host and user, older than `MIN_AGE_S`, and
its lock is free. So the folders of live processes stay, and those of other users and of other hosts
that share the parent over a network.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MIN_AGE_S = 60.0
"""A younger folder may be one whose process has not locked it yet."""
LOCK, CONTENT = "lock", "content"
_NAME = re.compile(r"\.?voco-(?P<host>[0-9a-f]{6})-(?P<user>\d+)-[a-z0-9_]{8}")
_MACHINE_ID = Path("/etc/machine-id")
_swept: set[tuple[int, Path]] = set()
"""Process and parent. A process sweeps a parent once: a bucket needs a folder for each object."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A folder of this process, and the descriptor that holds its lock."""

    folder: Path
    descriptor: int

    def remove(self) -> None:
        """Remove the folder and free the lock. What cannot be removed is left to a later sweep."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.descriptor)


@contextmanager
def temporary_folder(beside: Path | None = None) -> Iterator[Path]:
    """Give a new, empty folder, as a context manager that removes it.

    It is in the system's temporary folder. With `beside` it is hidden next to this path, on the
    same file system, and may be renamed to it inside the block. Sweeps its parent before.
    """
    if beside is None:
        held = _make(Path(tempfile.gettempdir()), "")
    else:
        held = _make(beside.absolute().parent, ".")
    try:
        content = held.folder / CONTENT
        content.mkdir(mode=0o700)
        yield content
    finally:
        held.remove()


def folder_until_exit() -> Path:
    """Make a folder in the system's temporary folder, removed when this process exits.

    The file of its lock lies in it. A process that is forked does not remove it.
    """
    held, owner = _make(Path(tempfile.gettempdir()), ""), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            held.remove()

    atexit.register(remove)
    return held.folder


def sweep(parent: Path | None = None) -> int:
    """Remove the folders that killed processes of this user and host left in `parent`.

    `parent` is the system's temporary folder by default. Returns how many were removed.
    """
    folder = Path(tempfile.gettempdir()) if parent is None else parent
    n_removed = 0
    try:
        entries = [Path(entry.path) for entry in os.scandir(folder) if _is_ours(entry.name)]
    except OSError:
        return 0  # a parent that cannot be listed has nothing that could be removed
    for path in entries:
        with suppress(OSError):  # it was removed meanwhile, or its file system has no locks
            n_removed += _remove_if_left(path)
    return n_removed


def _make(parent: Path, dot: str) -> _Held:
    _sweep_once(parent)
    while True:
        made = Path(tempfile.mkdtemp(prefix=f"{dot}voco-{_host()}-{os.getuid()}-", dir=parent))
        descriptor = _lock(made)
        if descriptor is not None:
            return _Held(made, descriptor)
        # This process slept for a minute between two lines, and a sweep took the folder.


def _lock(folder: Path) -> int | None:
    """Lock a folder; the descriptor holds the lock. None if a sweep has it, or has removed it."""
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        return descriptor  # a file system without locks: no sweep can lock it, so it stays
    if not path.exists():  # a sweep unlinked it before it was locked
        os.close(descriptor)
        return None
    return descriptor


def _sweep_once(parent: Path) -> None:
    key = (os.getpid(), parent)
    if key not in _swept:
        _swept.add(key)
        sweep(parent)


def _is_ours(name: str) -> bool:
    match = _NAME.fullmatch(name)
    return match is not None and (match["host"], match["user"]) == (_host(), str(os.getuid()))


def _remove_if_left(folder: Path) -> bool:
    """Remove a folder whose process has ended. Raises OSError if it cannot be locked."""
    status = folder.lstat()
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_private or time.time() - status.st_mtime < MIN_AGE_S:
        return False
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)
    return True


@cache
def _host() -> str:
    """Six hex digits for this machine: of its name, and of its id where it has one."""
    try:
        machine = _MACHINE_ID.read_text().strip()
    except OSError:
        machine = ""
    return hashlib.sha256(f"{platform.node()}\0{machine}".encode()).hexdigest()[:6]
