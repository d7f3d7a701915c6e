"""Atomic and durable writes of files.

A file is written under a temporary name and renamed, so that a killed process leaves no partial
file. A power failure also loses what the system has not written to the disk yet: it can keep the
rename and lose the bytes. So the file is synchronised before its rename, and its folder after it.
Many small files need not wait for the disk one by one: they are written with `synced=False`, and
`sync_filesystem` waits for all of them.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voco_data.errors import InputError
from voco_data.storage.base import ReadableStorage

_LIBC_SYNCFS = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
"""syncfs(2) of Linux; Python has no function for it."""
_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file of this name was made by `replacing`, and not renamed."""
    return _TEMPORARY.fullmatch(name) is not None


def write_bytes(
    path: Path, data: bytes | memoryview, *, mode: int = 0o644, synced: bool = True
) -> None:
    """Write `data` to `path` so that a reader sees all of it or none of it.

    If not `synced`, a power failure before the next `sync_filesystem` may leave part of it.
    """
    with replacing(path, synced=synced) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` if the block succeeds.

    After an exception the temporary file is removed. `synced` as for `write_bytes`. Raises
    InputError as `check_replaceable`.
    """
    check_replaceable(path)
    make_folders(path.parent, synced=synced)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if synced:
            sync(temporary)
        temporary.replace(path)
        if synced:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Raise InputError if another thing than a regular file is there: a rename would remove it.

    A rename onto `/dev/null` replaces the device for all programs, if the user has the right.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing is there, or writing will say what is wrong
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{path}: expected a file to write, got {kind}; give another path")


def make_folders(folder: Path, *, synced: bool = True, mode: int = 0o777) -> None:
    """Make a folder and those above it that are missing."""
    if folder.is_dir():
        return
    make_folders(folder.parent, synced=synced)
    folder.mkdir(mode=mode, exist_ok=True)
    if synced:
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(folder: Path) -> None:
    """Wait until everything on the file system of `folder` is on the disk. Raises OSError."""
    if _LIBC_SYNCFS is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _LIBC_SYNCFS(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def remove_temporaries_of(path: Path) -> None:
    """Remove the temporary files that `replacing` made for `path`, under a lock of the caller."""
    names = [temporary.name for temporary in path.parent.glob(f".{path.name}.*")]
    remove_temporaries(path.parent, names)


def sweep_store(storage: ReadableStorage) -> None:
    """Remove all temporary files of a store. The caller holds its lock."""
    folder = storage.local_folder()
    if folder is not None:
        sweep_folder(folder)


def sweep_folder(top: Path) -> None:
    """Remove all temporary files below a folder."""
    for folder, _, names in os.walk(top):
        remove_temporaries(Path(folder), names)


def remove_temporaries(folder: Path, names: list[str]) -> None:
    """Remove those files among `names` in a folder that are temporary."""
    for name in names:
        if is_temporary(name):
            (folder / name).unlink(missing_ok=True)
