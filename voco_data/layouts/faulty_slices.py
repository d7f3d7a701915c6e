"""Slices with a fault in their header, and the series that they belong to.

A slice without a position, or with decimal commas, still names its series. It joins that series,
and the reader of the series refuses it as a whole: a scan without one of its slices would be
shorter, or have a gap. A series of which every slice has a fault is one series too, and refused.

An empty file, and one that is torn in its header, names nothing. It joins the series of its folder,
if that has one series of DICOM, and files of that kind of name. In a folder of several series it is
a row of its own, and all of them get the flag LOST_FILES.
"""

from __future__ import annotations

import os
from collections import Counter

from voco_data.cohort import LOST_FILES, OddFile
from voco_data.dicom import SliceIds
from voco_data.errors import SeriesRefused
from voco_data.layouts.table import IndexTable
from voco_data.reasons import Reason
from voco_data.storage import scratch_db

FAULTS = frozenset(
    {Reason.MISSING_GEOMETRY, Reason.BAD_GEOMETRY, Reason.UNREADABLE, Reason.BURNED_IN}
)
"""Reasons to refuse a slice that leave it a slice of its series."""

FAULTY = "faulty"
"""`series.stack` of a series of which every slice has a fault."""

MIN_SLICES = 3
"""Least files in a folder that make a series of it, and not a collection of single files."""

EMPTY = "an empty file"
"""Detail of a file without bytes."""

DICOM_SUFFIXES = frozenset({"dcm", "dicom", "ima"})

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
        self._series_by_ids: dict[tuple[Ids, int, int], int | None] = {}
        self._series_by_folder: dict[tuple[bytes, str], list[int]] = {}
        self._is_series: dict[tuple[Ids, bool, bool], bool] = {}

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
        """Add every file to a series, or list it as an odd file."""
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
                series = self._series_of_folder(path)
            if series is None and self._forms_series(group, has_ids, reason):
                ids = self._ids(group)
                if ids not in made:
                    made[ids] = self._table.add_series("dicom", grp=group, stack=FAULTY)
                series = made[ids]
            if series is None:
                if detail == EMPTY and not self._large_series(path):
                    reason = Reason.NOT_MEDICAL  # an empty file beside no series
                self._table.add_odd_file(OddFile(os.fsdecode(path), Reason(reason), detail))
                if not has_ids:
                    self._flag_folder(path)
            else:
                self._table.add_slice(file, series, frames=frames, ids=group)

    def _ids(self, group: int) -> Ids:
        patient, uid, folder = self._sql.execute(
            "SELECT patient, uid, folder FROM groups WHERE id = ?", (group,)
        ).fetchone()
        return patient, uid, folder

    def _series_of_group(self, group: int, n_rows: int, n_columns: int) -> int | None:
        """The largest series of the same patient and series UID with the same matrix, if any."""
        key = (self._ids(group), n_rows, n_columns)
        if key not in self._series_by_ids:
            self._series_by_ids[key] = self._find_series_of_ids(*key)
        return self._series_by_ids[key]

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
        key = (self._ids(group), bool(has_ids), reason == Reason.BURNED_IN)
        if key not in self._is_series:
            self._is_series[key] = self._find_whether_series(*key)
        return self._is_series[key]

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

    def _series_of_folder(self, path: bytes) -> int | None:
        """The series of a file's folder, if there is one only."""
        found = self._large_series(path)
        return found[0] if len(found) == 1 else None

    def _flag_folder(self, path: bytes) -> None:
        """Flag all series of a file's folder: it may be a slice of any of them."""
        self._sql.executemany(
            "UPDATE series SET flags = ? WHERE id = ?",
            [(LOST_FILES, series) for series in self._large_series(path)],
        )

    def _large_series(self, path: bytes) -> list[int]:
        """Series with several slices in a file's folder whose names have the suffix of its name."""
        folder, _, name = path.rpartition(b"/")
        key = (folder, dicom_suffix(os.fsdecode(name)))
        if key not in self._series_by_folder:
            self._series_by_folder[key] = self._find_large_series(*key)
        return self._series_by_folder[key]

    def _find_large_series(self, folder: bytes, suffix: str) -> list[int]:
        first = folder + b"/" if folder else b""
        counts: Counter[int] = Counter()
        for series, other in self._sql.execute(
            "SELECT slices.series, files.path FROM files JOIN slices ON slices.file = files.id"
            " WHERE files.path >= ? AND files.path < ? AND slices.geometry IS NOT NULL",
            (first, first[:-1] + b"0" if first else b"\xff" * 16),  # "0" follows "/"
        ):
            is_beside = other.rpartition(b"/")[0] == folder
            if is_beside and dicom_suffix(os.fsdecode(other)) == suffix:
                counts[series] += 1
        return sorted(series for series, count in counts.items() if count >= MIN_SLICES)


def dicom_suffix(path: str) -> str:
    """The suffix of a name if it is one of DICOM, else empty."""
    suffix = path.lower().rpartition(".")[2]
    return suffix if suffix in DICOM_SUFFIXES else ""
