"""Walk an archive's files: sorted, filtered, and never out of the folder that was named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from voco_data.cohort import ArchiveFile
from voco_data.errors import InputError


def walk(
    source: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Iterator[ArchiveFile]:
    """Files below `source`, in sorted order, with paths relative to it.

    `include` and `exclude` are globs over the relative path. Folders that are links are not
    entered, and a link to a file counts only if the file lies inside the archive. A `source`
    that is one file gives that file. Raises InputError if `source` cannot be read.
    """
    if source.is_file():
        stat = source.stat()
        yield ArchiveFile(source.name, stat.st_size, stat.st_mtime_ns)
        return
    top = source.resolve()
    for file in _below(top, "", top):
        if include and not any(fnmatch(file.path, pattern) for pattern in include):
            continue
        if any(fnmatch(file.path, pattern) for pattern in exclude):
            continue
        yield file


def _below(folder: Path, prefix: str, top: Path) -> Iterator[ArchiveFile]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check the path") from error
    for entry in entries:
        path = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _below(folder / entry.name, f"{path}/", top)
        elif entry.is_file() and (not entry.is_symlink() or _inside(entry.path, top)):
            stat = entry.stat()
            yield ArchiveFile(path, stat.st_size, stat.st_mtime_ns)


def _inside(link: str, top: Path) -> bool:
    return Path(link).resolve().is_relative_to(top)
