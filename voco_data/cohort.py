"""What an archive holds before any pixel is read: its series, and files that belong to none.

The cohort lies in a table on disk (`voco_data/storage/scratch_db.py`). A series is built when it is
asked for, so an archive of any size takes the same memory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xxhash

from voco_data.reasons import Reason

MaskKind = Literal["nifti", "nrrd", "dicom_seg"]
MaskLabels = Literal["ratic", "flare", "unknown"]


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file of the archive: path relative to it, size and time of change."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A segmentation that may belong to a series. Whether it fits, its reader finds out."""

    path: str
    """Relative to the archive."""
    kind: MaskKind
    labels: MaskLabels
    """Whose numbers its voxels are."""


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
    """Changes when a file or mask of the series is added, removed, replaced or touched."""
    masks: tuple[MaskFile, ...] = ()
    """Candidates, sorted by path."""


@dataclass(frozen=True, slots=True)
class SeriesHead:
    """A series without its files."""

    number: int
    """Names the series within this index only."""
    kind: Literal["dicom", "nifti"]
    patient_id: str
    study_uid: str
    series_uid: str
    source: str
    n_files: int
    n_slices: int
    """Images: more than files where an object has several frames. 1 for NIfTI."""
    stat_digest: str


@dataclass(frozen=True, slots=True)
class OddFile:
    """A file that belongs to no series, and why."""

    path: str
    reason: Reason
    detail: str


class Cohort:
    """The index of one archive, while it is open. Made by `voco_data.layouts.index`."""

    def __init__(
        self, base: Path, layout: str, connection: sqlite3.Connection, *, public_ids: bool
    ) -> None:
        self.base = base
        """Folder that every path in here is relative to."""
        self.layout = layout
        self.public_ids = public_ids
        """Ids of this layout are public and kept; all others become pseudonyms."""
        self._connection = connection

    def __len__(self) -> int:
        """How many series."""
        return int(self._connection.execute("SELECT COUNT(*) FROM series").fetchone()[0])

    @property
    def n_files(self) -> int:
        """How many files the archive has, of any kind."""
        return int(self._connection.execute("SELECT COUNT(*) FROM files").fetchone()[0])

    def heads(self) -> Iterator[SeriesHead]:
        """All series, sorted by patient, series id and source."""
        cursor = self._connection.execute(f"{_HEAD} ORDER BY patient, uid, source, id")
        return (SeriesHead(*row) for row in cursor)

    def head(self, number: int) -> SeriesHead:
        """One series, without its files."""
        return SeriesHead(*self._connection.execute(f"{_HEAD} WHERE id = ?", (number,)).fetchone())

    def entry(self, number: int) -> SeriesEntry:
        """One series with its files and masks, both sorted by path."""
        head = self.head(number)
        files = self._connection.execute(
            "SELECT path FROM slices JOIN files ON files.id = slices.file"
            " WHERE slices.series = ? ORDER BY path",
            (number,),
        )
        masks = self._connection.execute(
            "SELECT path, kind, labels FROM masks JOIN files ON files.id = masks.file"
            " WHERE masks.series = ? ORDER BY path",
            (number,),
        )
        return SeriesEntry(
            kind=head.kind,
            patient_id=head.patient_id,
            study_uid=head.study_uid,
            series_uid=head.series_uid,
            source=head.source,
            files=tuple(os.fsdecode(path) for (path,) in files),
            stat_digest=head.stat_digest,
            masks=tuple(MaskFile(os.fsdecode(path), *rest) for path, *rest in masks),
        )

    def odd_files(self) -> Iterator[OddFile]:
        """Files that belong to no series, sorted by path."""
        cursor = self._connection.execute(
            "SELECT path, reason, detail FROM odd ORDER BY path, rowid"
        )
        return (OddFile(path, Reason(reason), detail) for path, reason, detail in cursor)


_HEAD = "SELECT id, kind, patient, study, uid, source, n_files, n_slices, stat_digest FROM series"


def stat_digest(files: Iterable[ArchiveFile], masks: Sequence[ArchiveFile] = ()) -> str:
    """XXH3-128 over path, size and time of change of every file, and of every mask if any.

    Both come sorted by path.
    """
    state = xxhash.xxh3_128()
    for file in files:
        state.update(_line(file))
    for mask in masks:
        state.update(b"mask\0" + _line(mask))
    return state.hexdigest()


def _line(file: ArchiveFile) -> bytes:
    return f"{file.path}\0{file.size}\0{file.mtime_ns}\n".encode(errors="surrogateescape")
