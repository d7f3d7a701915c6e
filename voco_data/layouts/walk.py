"""Walk the files of an archive as a stream, filtered, without leaving its folder."""

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


class FolderQueue(Protocol):
    """Folders that are still to be walked."""

    def push(self, folder: str) -> None:
        """Add a folder."""

    def pop(self) -> str | None:
        """Remove a folder and return it; None if the queue is empty."""


def walk(
    source: Path, queue: FolderQueue, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Iterator[ArchiveFile | OddFile]:
    """Iterate over the files below `source`, in the file system's order.

    Paths are relative to `source`, and `include` and `exclude` are globs over them. Links to
    folders are not followed, and a link to a file counts only if its target is inside the archive.
    A folder that cannot be read, and what is not a regular file, is an OddFile; it is never opened.
    A file whose status cannot be read, such as a link whose target is missing, is a file without
    bytes: whoever opens it gets the error. Memory does not grow with the archive: one folder is
    open at a time, the others are in `queue`.

    Raises InputError if `source` itself cannot be read.
    """
    top = os.path.realpath(source)
    queue.push("")
    while (prefix := queue.pop()) is not None:
        try:
            with os.scandir(os.path.join(top, prefix)) as entries:  # noqa: PTH118  names may be undecodable
                for entry in entries:
                    item = _stat_entry(entry, f"{prefix}{entry.name}", top)
                    if isinstance(item, str):
                        queue.push(f"{item}/")
                    elif is_selected(item.path, include, exclude):
                        yield item
        except OSError as error:
            if not prefix:
                raise InputError(
                    f"{source}: cannot be read ({error.strerror}); check the path"
                ) from error
            if is_selected(prefix, (), exclude):
                detail = f"the folder cannot be read ({error.strerror})"
                yield OddFile(prefix.rstrip("/"), Reason.IO_ERROR, detail)


def stat_file(path: str, top: str) -> ArchiveFile | OddFile:
    """Return one path below `top` as the walk would."""
    full = os.path.join(top, path)  # noqa: PTH118
    try:
        if not _is_inside(os.path.realpath(full), top):
            detail = "a link that leaves the archive"
            return OddFile(path, Reason.NOT_MEDICAL, detail, is_lost=True)
        return _regular_file(path, os.stat(full))  # noqa: PTH116
    except OSError:  # its reader gives the reason
        return ArchiveFile(path, 0, 0)


def _stat_entry(entry: os.DirEntry[str], path: str, top: str) -> ArchiveFile | OddFile | str:
    """Return a file, an odd file, or the path of a folder."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return path
        if entry.is_symlink():
            return stat_file(path, top)
        return _regular_file(path, entry.stat(follow_symlinks=False))
    except OSError:  # its reader gives the reason
        return ArchiveFile(path, 0, 0)


def _regular_file(path: str, status: os.stat_result) -> ArchiveFile | OddFile:
    if stat.S_ISREG(status.st_mode):
        return ArchiveFile(path, status.st_size, status.st_mtime_ns)
    kind = "a link to a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
    return OddFile(path, Reason.NOT_MEDICAL, f"{kind}; not followed and not opened")


def is_selected(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a path matches the globs: any of `include`, if there are some, none of `exclude`."""
    if include and not any(fnmatchcase(path, pattern) for pattern in include):
        return False
    return not any(fnmatchcase(path, pattern) for pattern in exclude)


def _is_inside(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")
