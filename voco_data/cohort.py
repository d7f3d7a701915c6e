"""The index of an archive: its series, and the files that belong to none. No pixel is read.

A cohort is a set of tables in a temporary file (`voco_data/storage/scratch_db.py`). A series is
built when it is requested, so memory does not grow with the archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from voco_data.reasons import Reason

if TYPE_CHECKING:
    import sqlite3

MaskKind = Literal["nifti", "nrrd", "dicom_seg"]
MaskLabels = Literal["ratic", "flare", "file_name", "unknown"]

PLACED_MASK = "mask"
"""Flag of a series: a mask lies on its voxels."""
LOST_FILES = "lost_files"
"""Flag of a series: a file beside its slices cannot be read, and may be one of them."""


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file: path relative to the archive, size in bytes, modification time."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A segmentation that may belong to a series. Its reader checks whether it fits."""

    path: str
    """Relative to the archive."""
    kind: MaskKind
    labels: MaskLabels
    """The data set whose label numbers its voxels hold; `file_name`: the one organ it names."""


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """One series: its own ids, and its files relative to the archive."""

    kind: Literal["dicom", "nifti"]
    patient_id: str
    study_uid: str
    series_uid: str
    source: str
    """Common folder of the files (the file itself for NIfTI), relative to the archive.

    Series that share a folder have `#` and what tells them apart after it.
    """
    files: tuple[str, ...]
    stat_digest: str
    """Changes when a file or mask of the series is added, removed, replaced or modified."""
    masks: tuple[MaskFile, ...] = ()
    """Candidates, sorted by path."""
    flags: tuple[str, ...] = ()
    """Remarks of the index for the ledger, such as LOST_FILES."""


@dataclass(frozen=True, slots=True)
class SeriesHead:
    """A series without its files."""

    number: int
    """Identifies the series within this index only."""
    kind: Literal["dicom", "nifti"]
    patient_id: str
    study_uid: str
    series_uid: str
    source: str
    n_files: int
    n_slices: int
    """More than `n_files` where files have several frames. Of NIfTI, the voxels along the patient's
    z by its header; 0 if that does not parse."""
    stat_digest: str
    flag_text: str = ""
    """Remarks of the index for the ledger, separated by blanks."""


@dataclass(frozen=True, slots=True)
class SeriesOrigin:
    """What all stacks of one series UID have in common, as the files say it."""

    series_uid: str
    """Without the suffix of a stack. The folder and `#` if the UID is empty; NIfTI: the path."""
    study_uids: tuple[str, ...]
    """Those that its slices name, sorted."""
    is_named: bool
    """Whether the files name both patient and series, so that no path stands in for an id."""


@dataclass(frozen=True, slots=True)
class OddFile:
    """A file that belongs to no series, and why."""

    path: str
    reason: Reason
    detail: str
    is_lost: bool = False
    """Whether it may be a slice that cannot be read: its name and folder say of which series."""


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series that a name refers to."""

    number: int
    where: str
    """What the name is there: a UID or a path is the same for all series that it finds."""


class Cohort:
    """The index of one archive, while it is open. Made by `voco_data.layouts.index_archive`."""

    def __init__(
        self, base: Path, layout: str, connection: sqlite3.Connection, *, public_ids: bool
    ) -> None:
        self.base = base
        """Folder that all paths of the cohort are relative to."""
        self.layout = layout
        self.public_ids = public_ids
        """Whether the ids of this layout are public and kept; all others become pseudonyms."""
        self._connection = connection
        self._has_groups = self._exists("FROM sqlite_master WHERE name = 'groups'")

    def __len__(self) -> int:
        """The number of series."""
        return int(self._connection.execute("SELECT COUNT(*) FROM series").fetchone()[0])

    @property
    def n_files(self) -> int:
        """The number of files in the archive, of any kind."""
        return int(self._connection.execute("SELECT COUNT(*) FROM files").fetchone()[0])

    def heads(self) -> Iterator[SeriesHead]:
        """Iterate over all series, sorted by patient, series id and source."""
        cursor = self._connection.execute(f"{_HEAD} ORDER BY patient, uid, source, id")
        return (SeriesHead(*row) for row in cursor)

    def head(self, number: int) -> SeriesHead:
        """Return one series, without its files."""
        return SeriesHead(*self._connection.execute(f"{_HEAD} WHERE id = ?", (number,)).fetchone())

    def origin(self, head: SeriesHead) -> SeriesOrigin:
        """What a series has in common with the other stacks of its UID."""
        if head.kind == "nifti":
            return SeriesOrigin(head.series_uid, (), is_named=self.public_ids)
        groups = self._groups_of(head.number) if self._has_groups else []
        if not groups:
            return SeriesOrigin(head.series_uid, (head.study_uid,), is_named=self.public_ids)
        folder = min(folder for *_, folder in groups)
        patient, _, uid, _ = groups[0]
        studies = tuple(sorted({study for _, study, _, _ in groups}))
        name = uid or f"{os.fsdecode(folder)}#"
        return SeriesOrigin(name, studies, is_named=bool(patient and uid))

    def _groups_of(self, number: int) -> list[tuple[str, str, str, bytes]]:
        """Patient, study, series UID and folder that the slices of a series name, in this order."""
        order = "ORDER BY patient = '', patient, study = '', study"
        rows: list[tuple[str, str, str, bytes]] = self._connection.execute(
            "SELECT patient, study, uid, folder FROM groups"
            f" WHERE family = (SELECT grp FROM series WHERE id = ?) {order}",
            (number,),
        ).fetchall()
        if len(rows) < 2:  # usually, and at little cost
            return rows
        return self._connection.execute(
            "SELECT patient, study, uid, folder FROM groups WHERE id IN"
            f" (SELECT ids FROM slices WHERE series = ? AND ids IS NOT NULL) {order}",
            (number,),
        ).fetchall()

    def _exists(self, query: str) -> bool:
        """Whether a query, from FROM on, has a row."""
        (is_found,) = self._connection.execute(f"SELECT EXISTS (SELECT 1 {query})").fetchone()
        return bool(is_found)

    def entry(self, number: int) -> SeriesEntry:
        """Return one series with its files and masks, both sorted by path."""
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
            flags=tuple(head.flag_text.split()),
        )

    def find_series(self, name: str) -> list[FoundSeries] | None:
        """Series by SeriesInstanceUID, by the path of a file or a folder, or by a file name.

        A UID finds all its stacks, a folder all series whose common folder it is. Paths are
        relative to the archive. The list is empty for a file that is in no series; the result is
        None for a name of nothing in the archive.
        """
        rows = self._connection.execute(
            "SELECT id FROM series WHERE uid = ? OR uid >= ? AND uid < ?",
            (name, f"{name}#", f"{name}$"),  # "$" follows "#"
        ).fetchall()
        path = os.fsencode(name.removeprefix("./").rstrip("/"))
        if not rows:
            rows = self._connection.execute(
                "SELECT id FROM series WHERE kind = 'dicom' AND folder = ?", (path,)
            ).fetchall()
        if rows:
            return [FoundSeries(number, "") for (number,) in rows]
        files = self._connection.execute(
            "SELECT id, path FROM files WHERE path = ?", (path,)
        ).fetchall()
        if not files and b"/" not in path:
            files = self._files_by_name(path)
        if not files:
            return None
        return [
            FoundSeries(number, os.fsdecode(found))
            for file, found in files
            for (number,) in self._connection.execute(
                "SELECT series FROM slices WHERE file = ? AND series IS NOT NULL", (file,)
            )
        ]

    def _files_by_name(self, name: bytes) -> list[tuple[int, bytes]]:
        """Number and path of the files with a name, in any folder."""
        sql = self._connection
        sql.create_function(
            "file_name", 1, lambda path: path.rpartition(b"/")[2], deterministic=True
        )
        sql.execute("CREATE INDEX IF NOT EXISTS files_name ON files (file_name(path))")
        return sql.execute(
            "SELECT id, path FROM files WHERE file_name(path) = ?", (name,)
        ).fetchall()

    def set_patient(self, number: int, patient_id: str) -> None:
        """Replace the patient id of a series."""
        self._connection.execute("UPDATE series SET patient = ? WHERE id = ?", (patient_id, number))

    def odd_files(self) -> Iterator[OddFile]:
        """Iterate over the files that belong to no series, sorted by path."""
        cursor = self._connection.execute(
            "SELECT path, reason, detail FROM odd ORDER BY path, rowid"
        )
        return (OddFile(path, Reason(reason), detail) for path, reason, detail in cursor)


_HEAD = (
    "SELECT id, kind, patient, study, uid, source, n_files, n_slices, stat_digest, flags"
    " FROM series"
)
