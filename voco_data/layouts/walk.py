"""Walk an archive's files as a stream, filtered, and never out of the folder that was named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from voco_data.cohort import ArchiveFile, OddFile
from voco_data.errors import InputError
from voco_data.reasons import Reason


class Queue(Protocol):
    """Folders still to be walked, wherever they are kept."""

    def push(self, folder: str) -> None:
        """Add one."""

    def pop(self) -> str | None:
        """Take one out; None if there are no more."""


def walk(
    source: Path, queue: Queue, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Iterator[ArchiveFile | OddFile]:
    """Files below `source`, in the file system's order, with paths relative to it.

    `include` and `exclude` are globs over the relative path. Folders that are links are not
    entered, and a link to a file counts only if the file lies inside the archive. What cannot be
    read, and what is no regular file, comes as an OddFile; it is never opened. Memory does not
    grow with the archive: one folder is open at a time, the others wait in `queue`.

    Raises InputError if `source` itself cannot be read.
    """
    top = os.path.realpath(source)
    queue.push("")
    while (prefix := queue.pop()) is not None:
        try:
            with os.scandir(os.path.join(top, prefix)) as found:  # noqa: PTH118  bytes of names
                for entry in found:
                    item = _look_at(entry, f"{prefix}{entry.name}", top)
                    if isinstance(item, str):
                        queue.push(f"{item}/")
                    elif wanted(item.path, include, exclude):
                        yield item
        except OSError as error:
            if not prefix:
                raise InputError(
                    f"{source}: cannot be read ({error.strerror}); check the path"
                ) from error
            if wanted(prefix, (), exclude):
                detail = f"the folder cannot be read ({error.strerror})"
                yield OddFile(prefix.rstrip("/"), Reason.UNREADABLE, detail)


def look_at_file(path: str, top: str) -> ArchiveFile | OddFile:
    """One path below `top`, as the walk would see it."""
    full = os.path.join(top, path)  # noqa: PTH118
    try:
        if not _inside(os.path.realpath(full), top):
            return OddFile(path, Reason.NOT_MEDICAL, "a link that leaves the archive")
        return _file(path, os.stat(full))  # noqa: PTH116
    except OSError as error:
        return OddFile(path, Reason.UNREADABLE, f"cannot be read ({error.strerror})")


def _look_at(entry: os.DirEntry[str], path: str, top: str) -> ArchiveFile | OddFile | str:
    """A file, an odd one, or the path of a folder."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return path
        if entry.is_symlink():
            return look_at_file(path, top)
        return _file(path, entry.stat(follow_symlinks=False))
    except OSError as error:
        return OddFile(path, Reason.UNREADABLE, f"cannot be read ({error.strerror})")


def _file(path: str, found: os.stat_result) -> ArchiveFile | OddFile:
    if stat.S_ISREG(found.st_mode):
        return ArchiveFile(path, found.st_size, found.st_mtime_ns)
    kind = "a link to a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
    return OddFile(path, Reason.NOT_MEDICAL, f"{kind}; not followed and not opened")


def wanted(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether the globs let a path through."""
    if include and not any(fnmatchcase(path, pattern) for pattern in include):
        return False
    return not any(fnmatchcase(path, pattern) for pattern in exclude)


def _inside(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")
