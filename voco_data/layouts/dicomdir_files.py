"""The files that a DICOMDIR lists: those to read, and those that are missing.

A DICOMDIR that is the source says which files are read. One that lies in a folder does not: all
files of the folder are. There it only tells which slices are missing of the series that are there.
It may be out of date, so a series of which no listed file exists was removed or renamed on purpose.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from voco_data.cohort import ArchiveFile, OddFile
from voco_data.dicom import ListedSlice, is_dicomdir, listed_slices, referenced_files
from voco_data.layouts.walk import stat_file
from voco_data.reasons import Reason

MISSING = "the DICOMDIR lists it, and it is not there"
"""Detail of a file that is missing."""

_START_BYTES = 1024


def opens_as_dicomdir(path: Path) -> bool:
    """Whether a file is a DICOMDIR by its first kilobyte. Raises OSError."""
    with path.open("rb") as file:
        return is_dicomdir(file.read(_START_BYTES))


def listed_files(directory: Path) -> Iterator[ArchiveFile | OddFile]:
    """Iterate over all files that a DICOMDIR lists, relative to its folder.

    A missing file and a reference out of the folder are OddFiles. Raises InputError if the DICOMDIR
    is damaged.
    """
    top = os.path.realpath(directory.parent)
    for parts in referenced_files(directory):
        path = "/".join(parts)
        if _leaves_folder(parts):
            detail = "the DICOMDIR refers to a place outside its folder; not read"
            yield OddFile(path, Reason.UNREADABLE, detail)
            continue
        existing = _existing_name(path, top)
        if existing is None:
            yield OddFile(path, Reason.IO_ERROR, MISSING, is_lost=True)
        else:
            yield stat_file(existing, top)


def missing_slices(directory: Path) -> Iterator[tuple[str, ListedSlice]]:
    """Iterate over the slices that are missing of series of which some listed file exists.

    Gives the path of each, relative to the folder of the DICOMDIR. Raises InputError if the
    DICOMDIR is damaged.
    """
    top = os.path.realpath(directory.parent)
    for _, slices in groupby(
        listed_slices(directory), key=lambda item: (item.study_uid, item.series_uid)
    ):
        missing: list[tuple[str, ListedSlice]] = []
        has_files = False
        for item in slices:
            path = "/".join(item.parts)
            if _leaves_folder(item.parts):
                continue
            if _existing_name(path, top) is None:
                missing.append((path, item))
            else:
                has_files = True
        if has_files:
            yield from missing


def _existing_name(path: str, top: str) -> str | None:
    """The path of a listed file as the file system has it; None if it is not there.

    File IDs are upper case (PS3.10 8.2); a file system may have made the names lower case.
    """
    return next((name for name in (path, path.lower()) if os.path.lexists(f"{top}/{name}")), None)


def _leaves_folder(parts: tuple[str, ...]) -> bool:
    return any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts)
