"""Which files of a plain tree are masks, by their names, and to which series they may belong.

A mask is offered to every series that it may belong to by its folder and name. When it is read, the
geometry of its voxels decides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import PurePosixPath

from voco_data.cohort import MaskKind, MaskLabels, OddFile
from voco_data.dicom import SegmentationReference
from voco_data.layouts.nifti_cases import UNUSED_STRUCTURE
from voco_data.layouts.table import IndexTable
from voco_data.masks import organ_of_file
from voco_data.reasons import Reason
from voco_data.storage import escape_undecodable, scratch_db

MASK_WORDS = frozenset({"seg", "segmentation", "segmentations", "mask", "masks", "label", "labels"})
MASK_FOLDER = re.compile(r"(?:segmentations|masks|labels)(?:tr|ts|te|va|val)?\d*", re.IGNORECASE)
"""Names of folders of masks; with the parts of data sets, such as `labelsTr`."""

MAX_SERIES = 100
"""A mask that could belong to more series is offered to none."""

MIN_ORGANS = 2
"""Masks named after so many organs make a folder one of a mask for each structure."""

MAX_FOLDERS = 100
"""Most folders beside one of masks that are searched for images."""

_MAX_NAME_PREFIXES = 32
"""Prefixes of a mask's name that are tried as the name of its image."""

_NIFTI = (".nii", ".nii.gz")
_WORD_BORDERS = re.compile(
    r"[_\-. ]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z])(?=[0-9])"
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS name_masks (file INTEGER PRIMARY KEY, path BLOB, kind TEXT);
CREATE TABLE IF NOT EXISTS found_segs (file INTEGER PRIMARY KEY, path BLOB, patient TEXT);
CREATE TABLE IF NOT EXISTS seg_series (file INTEGER, uid TEXT);
CREATE TABLE IF NOT EXISTS slice_folders (
    folder BLOB, above BLOB, series INTEGER, PRIMARY KEY (folder, series)
) WITHOUT ROWID;
"""

_SPREAD_SERIES = """
SELECT DISTINCT series.id FROM series JOIN slices ON slices.series = series.id
JOIN files ON files.id = slices.file WHERE kind = 'dicom'
AND instr(substr(files.path, iif(length(folder), length(folder) + 2, 1)), x'2f')
"""
"""DICOM series with a slice below their common folder, and not directly in it."""

_INDICES = """
CREATE INDEX name_masks_path ON name_masks (path);
CREATE INDEX series_folder ON series (folder, kind);
CREATE INDEX series_above ON series (above, kind);
CREATE INDEX series_first ON series (first);
CREATE INDEX slice_folders_above ON slice_folders (above);
CREATE INDEX seg_series_file ON seg_series (file);
CREATE INDEX groups_uid ON groups (uid);
"""


def is_nrrd(path: str) -> bool:
    """Whether a file has the suffix of NRRD."""
    return path.lower().endswith(".nrrd")


def mask_kind(path: str) -> MaskKind | None:
    """Return `nifti` or `nrrd` for a file that may be a mask by its name or folder, else None.

    A name only suggests it: the content of a NIfTI file decides.
    """
    lower = path.lower()
    kind: MaskKind
    if lower.endswith(_NIFTI):
        kind = "nifti"
    elif is_nrrd(lower):
        kind = "nrrd"
    else:
        return None
    file = PurePosixPath(path)
    words = MASK_WORDS & {word.lower() for word in _WORD_BORDERS.split(file.name)}
    return kind if words or _is_mask_folder(file.parent.name) else None


def _is_mask_folder(name: str) -> bool:
    return MASK_FOLDER.fullmatch(name) is not None


class MaskMatcher:
    """Collects the masks of an archive, and offers them to its series."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._sql = table.connection
        for statement in _SCHEMA.split(";"):
            self._sql.execute(statement)

    def add(self, file: int, path: str, kind: MaskKind) -> None:
        """Add a NIfTI or NRRD file that is a mask by its name."""
        self._sql.execute(
            "INSERT INTO name_masks VALUES (?, ?, ?)", (file, os.fsencode(path), kind)
        )

    def add_segmentation(self, file: int, path: str, reference: SegmentationReference) -> None:
        """Add a DICOM SEG, which refers to series by UID."""
        self._sql.execute(
            "INSERT INTO found_segs VALUES (?, ?, ?)",
            (file, os.fsencode(path), escape_undecodable(reference.patient_id)),
        )
        self._sql.executemany(
            "INSERT INTO seg_series VALUES (?, ?)",
            ((file, escape_undecodable(uid)) for uid in reference.series_uids),
        )

    def offer_to_series(self) -> None:
        """Offer every mask to the series that it may belong to, and list it as an odd file."""
        for statement in _INDICES.split(";"):
            self._sql.execute(statement)
        if scratch_db.exists(self._sql, "FROM name_masks"):
            self._add_slice_folders()
        # The folder of masks of organs also has masks of a hundred other structures.
        folders: dict[bytes, bool] = {}
        for file, path, kind in self._sql.execute("SELECT * FROM name_masks ORDER BY path"):
            folder = path.rpartition(b"/")[0]
            if folder not in folders:
                folders = {folder: self._is_folder_of_organs(folder)}  # paths are sorted
            is_organ = bool(organ_of_file(os.fsdecode(path)))
            if folders[folder] and not is_organ:
                self._table.add_odd_file(OddFile(os.fsdecode(path), Reason.MASK, UNUSED_STRUCTURE))
                continue
            labels: MaskLabels = "file_name" if is_organ else "unknown"
            self._offer(file, path, kind, labels, self._series_by_folder(path))
        for file, path, patient in self._sql.execute("SELECT * FROM found_segs ORDER BY path"):
            self._offer(file, path, "dicom_seg", "unknown", self._series_by_uid(file, patient))

    def _add_slice_folders(self) -> None:
        """Fill `slice_folders`: the folders of series whose slices lie in several."""
        for (series,) in self._sql.execute(_SPREAD_SERIES):
            paths = self._sql.execute(
                "SELECT path FROM slices JOIN files ON files.id = slices.file WHERE series = ?",
                (series,),
            )
            folders = {path.rpartition(b"/")[0] for (path,) in paths}
            self._sql.executemany(
                "INSERT INTO slice_folders VALUES (?, ?, ?)",
                (
                    (folder, folder.rpartition(b"/")[0] if folder else None, series)
                    for folder in folders
                ),
            )

    def _is_folder_of_organs(self, folder: bytes) -> bool:
        """Whether a folder holds masks that are named after several organs."""
        if not _is_mask_folder(os.fsdecode(folder.rpartition(b"/")[2])):
            return False
        organs = {
            organ_of_file(os.fsdecode(path))
            for (path,) in self._sql.execute(
                "SELECT path FROM name_masks WHERE path >= ? AND path < ?",
                (folder + b"/", folder + b"0"),  # "0" follows "/"
            )
            if path.rpartition(b"/")[0] == folder
        }
        return len(organs - {""}) >= MIN_ORGANS

    def _offer(
        self, file: int, path: bytes, kind: MaskKind, labels: MaskLabels, series: list[int]
    ) -> None:
        if len(series) > MAX_SERIES:
            detail = f"a mask that could belong to more than {MAX_SERIES} series: offered to none"
            self._table.add_odd_file(OddFile(os.fsdecode(path), Reason.MASK, detail))
            return
        for number in series:
            self._table.add_mask(number, file, kind, labels)
        self._table.add_mask_row(os.fsdecode(path), len(series))

    def _series_by_folder(self, path: bytes) -> list[int]:
        """Series in the folder of a mask, or beside it if that is a folder of masks (`masks/`)."""
        folder, _, name = path.rpartition(b"/")
        parent, _, folder_name = folder.rpartition(b"/")
        beside = parent if _is_mask_folder(os.fsdecode(folder_name)) else None
        series = self._series_in_folder("dicom", "folder", folder) + self._series_in_folder(
            "dicom", "above", folder
        )
        folders = [folder]
        if beside is not None:
            series += self._series_in_folder("dicom", "folder", beside)
            siblings = self._series_in_folder("dicom", "above", beside)
            series += siblings if len(siblings) == 1 else []
            folders += [beside, *self._folders_of_images(beside)]
        image = next((n for path in folders for n in self._matching_images(path, name)), None)
        if image is not None:
            return [*series, image]
        series += self._most_alike(self._series_in_folder("nifti", "folder", folder), name)
        images = [] if beside is None else self._series_in_folder("nifti", "folder", beside)
        return series + (images if len(images) == 1 else [])

    def _folders_of_images(self, above: bytes) -> list[bytes]:
        """Folders directly below `above` that hold NIfTI images (`images` beside `labels`)."""
        rows = self._sql.execute(
            "SELECT DISTINCT folder FROM series WHERE above = ? AND kind = 'nifti'"
            " ORDER BY folder LIMIT ?",
            (above, MAX_FOLDERS),
        )
        return [folder for (folder,) in rows]

    def _most_alike(self, images: list[int], name: bytes) -> list[int]:
        """The images that share most of the first words of a mask's name, if these have a number.

        `019_mask.nii.gz` belongs to `019_LIDC.nii.gz` of many images. All images if none does.
        """
        if len(images) > MAX_SERIES:
            return images
        words = _words(name)
        shared = {}
        for number in images:
            (path,) = self._sql.execute(
                "SELECT first FROM series WHERE id = ?", (number,)
            ).fetchone()
            pairs = takewhile(
                lambda pair: pair[0] == pair[1],
                zip(words, _words(path.rpartition(b"/")[2]), strict=False),
            )
            common = [word for word, _ in pairs]
            shared[number] = len(common) if any(map(str.isdigit, common)) else 0
        most = max(shared.values(), default=0)
        return [number for number in images if shared[number] == most] if most else images

    def _matching_images(self, folder: bytes, name: bytes) -> Iterator[int]:
        """NIfTI images in `folder` whose name is a prefix of the mask's name, the longest first."""
        text = os.fsdecode(name)
        stem = re.sub(r"(\.seg)?(\.nii(\.gz)?|\.nrrd)$", "", text, flags=re.IGNORECASE)
        ends = sorted({len(stem), *(border.start() for border in _WORD_BORDERS.finditer(stem))})
        for end in reversed(ends[-_MAX_NAME_PREFIXES:]):
            start = os.fsencode(stem[:end])
            for suffix in (b".nii.gz", b".nii", b"_0000.nii.gz", b"_0000.nii"):
                image = b"/".join([folder, start + suffix]) if folder else start + suffix
                row = self._sql.execute(
                    "SELECT id FROM series WHERE first = ? AND kind = 'nifti'", (image,)
                ).fetchone()
                if row and end:
                    yield int(row[0])

    def _series_in_folder(self, kind: str, column: str, folder: bytes) -> list[int]:
        """Series whose files lie in a folder, or with `above`, in one directly below it.

        A series over several folders lies in each of them, and in their common one.
        """
        rows = self._sql.execute(
            f"SELECT id FROM series WHERE {column} = ? AND kind = ?"
            f" UNION SELECT series FROM slice_folders WHERE {column} = ? AND ? = 'dicom' LIMIT ?",
            (folder, kind, folder, kind, MAX_SERIES + 1),
        )
        return [number for (number,) in rows]

    def _series_by_uid(self, file: int, patient: str) -> list[int]:
        """Series of the UIDs that a SEG refers to, of its patient if both headers name one."""
        self._sql.execute("CREATE INDEX IF NOT EXISTS slices_ids ON slices (ids)")
        rows = self._sql.execute(
            "SELECT DISTINCT slices.series FROM seg_series"
            " JOIN groups ON groups.uid = seg_series.uid"
            " JOIN slices ON slices.ids = groups.id WHERE seg_series.file = ?"
            " AND (groups.patient = ? OR groups.patient = '' OR ? = '') LIMIT ?",
            (file, patient, patient, MAX_SERIES + 1),
        )
        return [number for (number,) in rows]


def _words(name: bytes) -> list[str]:
    """The words of a file name without its ending, in lower case."""
    stem = os.fsdecode(name).split(".")[0]
    return [word.lower() for word in _WORD_BORDERS.split(stem) if word]
