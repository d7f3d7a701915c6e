"""What an archive holds before any pixel is read: its series, and files that belong to none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xxhash

from voco_data.reasons import Reason


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file of the archive: path relative to it, size and time of change."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A label map that may lie on a series, by what the index could see without reading it."""

    path: str
    kind: Literal["nifti", "nrrd", "dicom_seg"]
    labels: Literal["ratic", "flare", "unknown"]
    """What its numbers mean."""


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """One series: its own ids, and its files relative to the archive."""

    kind: Literal["dicom", "nifti"]
    patient_id: str
    study_uid: str
    series_uid: str
    source: str
    """Common folder of the files (the file itself for NIfTI), relative to the archive."""
    files: tuple[str, ...]
    stat_digest: str
    """Changes when a file of the series is added, removed, replaced or touched."""
    masks: tuple[MaskFile, ...] = ()


@dataclass(frozen=True, slots=True)
class OddFile:
    """A file that belongs to no series, and why."""

    path: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Cohort:
    """The index of one archive."""

    base: Path
    """Folder that every path in here is relative to."""
    layout: str
    public_ids: bool
    """Ids of this layout are public and kept; all others become pseudonyms."""
    series: tuple[SeriesEntry, ...]
    odd_files: tuple[OddFile, ...]


def stat_digest(files: Sequence[ArchiveFile]) -> str:
    """XXH3-128 over path, size and time of change of every file."""
    state = xxhash.xxh3_128()
    for file in sorted(files, key=lambda f: f.path):
        state.update(
            f"{file.path}\0{file.size}\0{file.mtime_ns}\n".encode(errors="surrogateescape")
        )
    return state.hexdigest()
