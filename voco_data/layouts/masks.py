"""Which files of a plain tree are masks, by their names, and of which series they may be.

A mask is offered, by where it lies, to every series that it may belong to. Whether it fits one,
its reader finds out from the voxels' geometry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from voco_data.cohort import MaskKind, OddFile
from voco_data.dicom.stack_key import Segmented
from voco_data.layouts.table import IndexTable
from voco_data.reasons import Reason
from voco_data.storage.scratch_db import escape_undecodable

WORDS = frozenset({"seg", "segmentation", "segmentations", "mask", "masks", "label", "labels"})
FOLDERS = frozenset({"segmentations", "masks", "labels"})

MOST_SERIES = 100
"""A mask that could belong to more series than this is offered to none."""

_FOLDERS = frozenset(name.encode() for name in FOLDERS)
_LONGEST_NAME = 32
"""Parts of a mask's name that are tried as the name of its image."""

_NIFTI = (".nii", ".nii.gz")
_BORDERS = re.compile(
    r"[_\-. ]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z])(?=[0-9])"
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS found_masks (file INTEGER PRIMARY KEY, path BLOB, kind TEXT);
CREATE TABLE IF NOT EXISTS found_segs (file INTEGER PRIMARY KEY, path BLOB, patient TEXT);
CREATE TABLE IF NOT EXISTS seg_series (file INTEGER, uid TEXT);
"""

_INDICES = """
CREATE INDEX series_folder ON series (folder, kind);
CREATE INDEX series_above ON series (above, kind);
CREATE INDEX series_first ON series (first);
CREATE INDEX seg_series_file ON seg_series (file);
CREATE INDEX groups_uid ON groups (uid);
"""


def is_nrrd(path: str) -> bool:
    """Whether the name ends as an NRRD file's does."""
    return path.lower().endswith(".nrrd")


def mask_kind(path: str) -> MaskKind | None:
    """`nifti` or `nrrd` for a file that is a mask by its name or folder, else None."""
    lower = path.lower()
    kind: MaskKind
    if lower.endswith(_NIFTI):
        kind = "nifti"
    elif is_nrrd(lower):
        kind = "nrrd"
    else:
        return None
    where = PurePosixPath(path)
    named = WORDS & {word.lower() for word in _BORDERS.split(where.name)}
    return kind if named or where.parent.name.lower() in FOLDERS else None


class Masks:
    """Collects masks, then offers them to the series."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._sql = table.connection
        for statement in _SCHEMA.split(";"):
            self._sql.execute(statement)

    def add(self, file: int, path: str, kind: MaskKind) -> None:
        """A NIfTI or NRRD file that is a mask by its name."""
        self._sql.execute(
            "INSERT INTO found_masks VALUES (?, ?, ?)", (file, os.fsencode(path), kind)
        )

    def add_segmentation(self, file: int, path: str, segmented: Segmented) -> None:
        """A DICOM SEG that refers to series by UID."""
        self._sql.execute(
            "INSERT INTO found_segs VALUES (?, ?, ?)",
            (file, os.fsencode(path), escape_undecodable(segmented.patient_id)),
        )
        self._sql.executemany(
            "INSERT INTO seg_series VALUES (?, ?)",
            ((file, escape_undecodable(uid)) for uid in segmented.series_uids),
        )

    def offer(self) -> None:
        """Attach every mask to the series that it may belong to, and write its row."""
        for statement in _INDICES.split(";"):
            self._sql.execute(statement)
        for file, path, kind in self._sql.execute("SELECT * FROM found_masks ORDER BY path"):
            self._offer(file, path, kind, self._by_place(path))
        for file, path, patient in self._sql.execute("SELECT * FROM found_segs ORDER BY path"):
            self._offer(file, path, "dicom_seg", self._by_reference(file, patient))

    def _offer(self, file: int, path: bytes, kind: MaskKind, series: list[int]) -> None:
        if len(series) > MOST_SERIES:
            detail = f"a mask that could belong to more than {MOST_SERIES} series: offered to none"
            self._table.add_odd(OddFile(os.fsdecode(path), Reason.MASK, detail))
            return
        for number in series:
            self._table.add_mask(number, file, kind, "unknown")
        self._table.add_mask_row(os.fsdecode(path), len(series))

    def _by_place(self, path: bytes) -> list[int]:
        folder, _, name = path.rpartition(b"/")
        inside, _, folder_name = folder.rpartition(b"/")
        below = inside if folder_name.lower() in _FOLDERS else None
        found = self._series("dicom", "folder", folder) + self._series("dicom", "above", folder)
        if below is not None:
            found += self._series("dicom", "folder", below)
        places = [folder] if below is None else [folder, below]
        owner = next((n for place in places for n in self._owner(place, name)), None)
        if owner is not None:
            return [*found, owner]
        found += self._series("nifti", "folder", folder)
        around = [] if below is None else self._series("nifti", "folder", below)
        return found + (around if len(around) == 1 else [])

    def _owner(self, folder: bytes, name: bytes) -> Iterator[int]:
        """The NIfTI image whose name the mask's begins with; the longest such name wins."""
        text = os.fsdecode(name)
        stem = re.sub(r"(\.seg)?(\.nii(\.gz)?|\.nrrd)$", "", text, flags=re.IGNORECASE)
        ends = sorted({len(stem), *(border.start() for border in _BORDERS.finditer(stem))})
        for end in reversed(ends[-_LONGEST_NAME:]):
            start = os.fsencode(stem[:end])
            for suffix in (b".nii.gz", b".nii"):
                image = b"/".join([folder, start + suffix]) if folder else start + suffix
                found = self._sql.execute(
                    "SELECT id FROM series WHERE first = ? AND kind = 'nifti'", (image,)
                ).fetchone()
                if found and end:
                    yield int(found[0])

    def _series(self, kind: str, column: str, folder: bytes) -> list[int]:
        rows = self._sql.execute(
            f"SELECT id FROM series WHERE {column} = ? AND kind = ? LIMIT ?",
            (folder, kind, MOST_SERIES + 1),
        )
        return [number for (number,) in rows]

    def _by_reference(self, file: int, patient: str) -> list[int]:
        """Series of the UIDs that a SEG refers to; of the same patient, where both say who."""
        rows = self._sql.execute(
            "SELECT series.id FROM seg_series JOIN groups ON groups.uid = seg_series.uid"
            " JOIN series ON series.grp = groups.id WHERE seg_series.file = ?"
            " AND (groups.patient = ? OR groups.patient = '' OR ? = '') LIMIT ?",
            (file, patient, patient, MOST_SERIES + 1),
        )
        return [number for (number,) in rows]
