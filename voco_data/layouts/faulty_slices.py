"""Slices with a fault in their header, and the series that they belong to.

A slice without a position, or with decimal commas, still names its series. It joins that series,
and the reader of the series refuses it as a whole: a scan without one of its slices would be
shorter, or have a gap. A series of which every slice has a fault is one series too, and refused.

A file that is empty, torn in its header, no DICOM, or cannot be opened, names nothing. It joins the
series of its folder whose slices have names like its own (`name_shape`), if there is one. If there
are several, it is a row of its own, and all of them get the flag LOST_FILES. A text, a table or a
DICOMDIR beside the slices has another name, and is no slice.

A file that is never opened, because a DICOMDIR lists it and it is not there, or because it is a
link out of the archive, gives LOST_FILES: to the series of its record in the DICOMDIR, else to
those whose slices have names like its own.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import lru_cache

from voco_data.cohort import LOST_FILES, OddFile
from voco_data.dicom import SliceIds
from voco_data.errors import SeriesRefused
from voco_data.layouts.table import IndexTable
from voco_data.reasons import Reason
from voco_data.storage import scratch_db

FAULTS = frozenset(
    {
        Reason.MISSING_GEOMETRY,
        Reason.BAD_GEOMETRY,
        Reason.UNREADABLE,
        Reason.IO_ERROR,
        Reason.BURNED_IN,
    }
)
"""Reasons to refuse a slice that leave it a slice of its series."""

FAULTY = "faulty"
"""`series.stack` of a series of which every slice has a fault."""

MIN_SLICES = 3
"""Least files in a folder that make a series of it, and not a collection of single files."""

EMPTY = "an empty file"
"""Detail of a file without bytes."""

NOT_DICOM = "neither DICOM nor NIfTI"
"""Detail of a file whose bytes are of another kind."""

DICOM_SUFFIXES = frozenset({"dcm", "dicom", "ima"})

_UUID_OR_HASH = re.compile(
    r"(?<![0-9a-z])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{8,})(?![0-9a-z])"
)
_NUMBER_OR_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")

_MAX_CACHED = 4096
"""Results of each query in memory."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS faulty (
    file INTEGER PRIMARY KEY, path BLOB, grp INTEGER, has_ids INTEGER, n_rows INTEGER,
    n_columns INTEGER, frames INTEGER, reason TEXT, detail TEXT
);
"""


Ids = tuple[str, str, bytes]
"""Patient, series UID, and the folder where that is empty."""


class FaultySlices:
    """Collects the files with a fault, and attaches them to series."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._sql = table.connection
        self._sql.execute(_SCHEMA)
        # One query for all files of a series, and of a folder.
        self._series_of_ids = lru_cache(_MAX_CACHED)(self._find_series_of_ids)
        self._series_in_folder = lru_cache(_MAX_CACHED)(self._find_series_in_folder)
        self._is_series = lru_cache(_MAX_CACHED)(self._find_whether_series)

    def add(
        self, file: int, path: str, refusal: SeriesRefused, ids: SliceIds | None, group: int | None
    ) -> None:
        """Add a file. `ids` and `group` are None if its header does not give them."""
        size = (0, 0, 1) if ids is None else (ids.rows, ids.columns, ids.frames)
        self._sql.execute(
            "INSERT INTO faulty VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                file,
                os.fsencode(path),
                group,
                bool(ids and ids.series_uid),
                *size,
                refusal.reason,
                refusal.detail,
            ),
        )

    def attach(self) -> None:
        """Add every file to a series, or list it as an odd file; flag series that lack files."""
        self._attach_faulty()
        self._flag_for_lost_files()

    def _attach_faulty(self) -> None:
        if scratch_db.exists(self._sql, "FROM faulty"):
            self._sql.execute("CREATE INDEX IF NOT EXISTS slices_ids ON slices (ids)")
            self._sql.execute("CREATE INDEX IF NOT EXISTS faulty_grp ON faulty (grp)")
        made: dict[Ids, int] = {}
        # SQLite sorts these rows without an index, so it reads all of them before the first update.
        rows = self._sql.execute("SELECT * FROM faulty ORDER BY path")
        for file, path, group, has_ids, n_rows, n_columns, frames, reason, detail in rows:
            series = self._series_of_group(group, n_rows, n_columns) if group is not None else None
            if series is not None and reason == Reason.BURNED_IN:
                series = None  # a picture of text beside the slices, such as a dose sheet
            elif series is None and not has_ids:
                alike = self._series_alike(path)
                series = alike[0] if len(alike) == 1 else None
            if series is None and self._forms_series(group, has_ids, reason):
                ids = self._ids(group)
                if ids not in made:
                    made[ids] = self._table.add_series("dicom", grp=group, stack=FAULTY)
                series = made[ids]
            if series is None:
                alike = [] if has_ids else self._series_alike(path)
                if detail in (EMPTY, NOT_DICOM) and not alike:
                    reason = Reason.NOT_MEDICAL  # beside no series
                self._table.add_odd_file(OddFile(os.fsdecode(path), Reason(reason), detail))
                self._flag(alike)  # it may be a slice of any of them
            else:
                self._table.add_slice(file, series, frames=frames, ids=group)

    def _ids(self, group: int) -> Ids:
        patient, uid, folder = self._sql.execute(
            "SELECT patient, uid, folder FROM groups WHERE id = ?", (group,)
        ).fetchone()
        return patient, uid, folder

    def _series_of_group(self, group: int, n_rows: int, n_columns: int) -> int | None:
        """The largest series of the same patient and series UID with the same matrix, if any."""
        return self._series_of_ids(self._ids(group), n_rows, n_columns)

    def _find_series_of_ids(self, ids: Ids, n_rows: int, n_columns: int) -> int | None:
        row = self._sql.execute(
            "SELECT slices.series FROM groups JOIN slices ON slices.ids = groups.id"
            " JOIN geometries ON geometries.id = slices.geometry"
            " WHERE groups.patient = ? AND groups.uid = ? AND groups.folder = ?"
            " AND (? = 0 OR json_extract(value, '$[0]') = ? AND json_extract(value, '$[1]') = ?)"
            " GROUP BY slices.series ORDER BY COUNT(*) DESC, slices.series LIMIT 1",
            (*ids, n_rows * n_columns, n_rows, n_columns),
        ).fetchone()
        return None if row is None else int(row[0])

    def _forms_series(self, group: int | None, has_ids: bool, reason: Reason) -> bool:
        """Whether the files of a group are a series, though every one has a fault."""
        if group is None:
            return False
        return self._is_series(self._ids(group), bool(has_ids), reason == Reason.BURNED_IN)

    def _find_whether_series(self, ids: Ids, has_ids: bool, is_burned_in: bool) -> bool:
        if is_burned_in and scratch_db.exists(
            self._sql,
            "FROM groups JOIN slices ON slices.ids = groups.id WHERE slices.geometry IS NOT NULL"
            " AND groups.patient = ? AND groups.uid = ? AND groups.folder = ?",
            ids,
        ):
            return False
        (count,) = self._sql.execute(
            "SELECT COUNT(*) FROM faulty JOIN groups ON groups.id = faulty.grp"
            " WHERE patient = ? AND uid = ? AND folder = ?",
            ids,
        ).fetchone()
        return has_ids or count >= MIN_SLICES

    def _flag_for_lost_files(self) -> None:
        """Flag the series of the files that are never opened."""
        cursor = self._sql.execute(
            "SELECT path, MAX(study), MAX(uid) FROM lost GROUP BY path ORDER BY path"
        )
        for path, study, uid in cursor:
            self._flag(self._series_of_uid(study, uid) or self._series_alike(path))

    def _series_of_uid(self, study: str, uid: str) -> list[int]:
        """The series of a study and series UID, of any patient; none for an empty UID."""
        rows = self._sql.execute(
            "SELECT DISTINCT slices.series FROM groups JOIN slices ON slices.ids = groups.id"
            " WHERE groups.uid = ? AND groups.study = ? AND groups.uid != ''"
            " AND slices.geometry IS NOT NULL",
            (uid, study),
        )
        return [series for (series,) in rows]

    def _flag(self, series: list[int]) -> None:
        self._sql.executemany(
            "UPDATE series SET flags = ? WHERE id = ?", [(LOST_FILES, number) for number in series]
        )

    def _series_alike(self, path: bytes) -> list[int]:
        """Series with several slices in a file's folder whose names have the shape of its name."""
        folder, _, name = path.rpartition(b"/")
        return self._series_in_folder(folder).get(name_shape(os.fsdecode(name)), [])

    def _find_series_in_folder(self, folder: bytes) -> dict[str, list[int]]:
        """Series with several slices directly in a folder whose names have one shape, by shape."""
        first = folder + b"/" if folder else b""
        counts: Counter[tuple[str, int]] = Counter()
        for series, name in self._sql.execute(
            "SELECT slices.series, substr(files.path, ?) FROM files"
            " JOIN slices ON slices.file = files.id"
            " WHERE files.path >= ? AND files.path < ? AND slices.geometry IS NOT NULL"
            " AND instr(substr(files.path, ?), x'2f') = 0",
            (
                len(first) + 1,
                first,
                first[:-1] + b"0" if first else b"\xff" * 16,  # "0" follows "/"
                len(first) + 1,
            ),
        ):
            counts[name_shape(os.fsdecode(name)), series] += 1
        found: dict[str, list[int]] = {}
        for (shape, series), count in sorted(counts.items()):
            if shape and count >= MIN_SLICES:
                found.setdefault(shape, []).append(series)
        return found


def dicom_suffix(path: str) -> str:
    """The suffix of a name if it is one of DICOM, else empty."""
    suffix = path.lower().rpartition(".")[2]
    return suffix if suffix in DICOM_SUFFIXES else ""


def name_shape(name: str) -> str:
    """What the names of the slices of one folder have in common; empty for a name without number.

    It is the suffix if that is one of DICOM. Otherwise it is the name in lower case with `#` for
    each number, UID, UUID and hash of 8 or more hex digits: `im#` for IM0012, `#` for 1.2.840.12,
    `slice_#.img` for slice_7.img. An empty shape is like no other.
    """
    suffix = dicom_suffix(name)
    if suffix:
        return f".{suffix}"
    shape = _NUMBER_OR_UID.sub("#", _UUID_OR_HASH.sub("#", name.lower()))
    return shape if "#" in shape else ""
