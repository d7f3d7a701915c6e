"""Slices with a fault in their header, and the series that they belong to.

A slice without a position, or with decimal commas, still names its series. It joins that series,
and the reader of the series refuses it as a whole: a scan without one of its slices would be
shorter, or have a gap. If several scans share its ids, then study, traits and folder of the slice
choose one; if they do not, it is a row of its own, and all of them get the flag LOST_FILES. If
every slice of a series has a fault, it is one series too, and refused.

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
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

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
"""The first word of `series.stack` of a series of which every slice has a fault."""

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
    file INTEGER PRIMARY KEY, path BLOB, grp INTEGER, traits INTEGER, has_ids INTEGER,
    n_rows INTEGER, n_columns INTEGER, frames INTEGER, reason TEXT, detail TEXT
);
"""


LASTING = ("kernel", "image_type", "series_number", "kvp", "description")
"""Traits that rarely vary within a scan."""

Ids = tuple[str, str, bytes]
"""Patient, series UID, and the folder where that is empty."""


Lasting = tuple[str, ...]
"""Study and LASTING traits of a slice."""


class _ScanOfIds(NamedTuple):
    """What the slices of a series have."""

    series: int
    lasting: set[Lasting]
    traits: set[int]
    folders: set[bytes]


class FaultySlices:
    """Collects the files with a fault, and attaches them to series."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._sql = table.connection
        self._sql.execute(_SCHEMA)
        # One query for all files of a series, and of a folder.
        self._scans_of_ids = lru_cache(_MAX_CACHED)(self._find_scans_of_ids)
        self._lasting = lru_cache(_MAX_CACHED)(self._find_lasting)
        self._n_alike = lru_cache(_MAX_CACHED)(self._count_alike)
        self._series_in_folder = lru_cache(_MAX_CACHED)(self._find_series_in_folder)
        self._is_series = lru_cache(_MAX_CACHED)(self._find_whether_series)

    def add(
        self,
        file: int,
        path: str,
        refusal: SeriesRefused,
        ids: SliceIds | None,
        group: int | None,
        traits: int | None,
    ) -> None:
        """Add a file. `ids`, `group` and `traits` are None if its header does not give them."""
        size = (0, 0, 1) if ids is None else (ids.rows, ids.columns, ids.frames)
        self._sql.execute(
            "INSERT INTO faulty VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                file,
                os.fsencode(path),
                group,
                traits,
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
        made: dict[tuple[Ids, Lasting], int] = {}
        # SQLite sorts these rows without an index, so it reads all of them before the first update.
        rows = self._sql.execute("SELECT * FROM faulty ORDER BY path")
        for file, path, group, traits, has_ids, n_rows, n_columns, frames, reason, detail in rows:
            candidates: list[int] = []
            if group is not None and reason != Reason.BURNED_IN:  # else a picture, as of doses
                folder = path.rpartition(b"/")[0]
                candidates = self._series_of_slice(group, traits, folder, (n_rows, n_columns))
            if not candidates and not has_ids and reason != Reason.BURNED_IN:
                candidates = self._series_alike(path)
            series = candidates[0] if len(candidates) == 1 else None
            if not candidates and self._forms_series(group, has_ids, reason):
                key = self._ids_of_series(group, traits)
                if key not in made:
                    stack = " ".join((FAULTY, *key[1]))
                    made[key] = self._table.add_series("dicom", grp=group, stack=stack)
                series = made[key]
            if series is None:
                if not candidates and not has_ids:
                    candidates = self._series_alike(path)
                if detail in (EMPTY, NOT_DICOM) and not candidates:
                    reason = Reason.NOT_MEDICAL  # beside no series
                self._table.add_odd_file(OddFile(os.fsdecode(path), Reason(reason), detail))
                self._flag(candidates)  # it may be a slice of any of them
            else:
                self._table.add_slice(file, series, frames=frames, ids=group)

    def _ids(self, group: int) -> Ids:
        patient, uid, folder = self._sql.execute(
            "SELECT patient, uid, folder FROM groups WHERE id = ?", (group,)
        ).fetchone()
        return patient, uid, folder

    def _series_of_slice(
        self, group: int, traits: int, folder: bytes, matrix: tuple[int, int]
    ) -> list[int]:
        """The series of the same patient, series UID and matrix that a slice may belong to.

        Of several, those with slices of the same study and lasting traits; of these, those with
        slices of the same traits; of these, those with slices in the same folder. None if no series
        has slices of these lasting traits, and several slices with a fault have them.
        """
        ids, lasting = self._ids(group), self._lasting(group, traits)
        scans = self._scans_of_ids(ids, matrix)
        is_new = not any(lasting in scan.lasting for scan in scans)
        if is_new and self._n_alike(ids)[lasting] >= MIN_SLICES:
            return []
        criteria: list[Callable[[_ScanOfIds], bool]] = [
            lambda scan: lasting in scan.lasting,
            lambda scan: traits in scan.traits,
            lambda scan: folder in scan.folders,
        ]
        for agrees in criteria:
            scans = [scan for scan in scans if agrees(scan)] or scans
        return [scan.series for scan in scans]

    def _ids_of_series(self, group: int, traits: int) -> tuple[Ids, Lasting]:
        """What tells series of slices with a fault apart: lasting traits, if several share them."""
        ids, lasting = self._ids(group), self._lasting(group, traits)
        return ids, lasting if self._n_alike(ids)[lasting] >= MIN_SLICES else ()

    def _find_scans_of_ids(self, ids: Ids, matrix: tuple[int, int]) -> list[_ScanOfIds]:
        rows = self._sql.execute(
            "SELECT slices.series, slices.ids, slices.traits, path FROM groups"
            " JOIN slices ON slices.ids = groups.id JOIN files ON files.id = slices.file"
            " JOIN geometries ON geometries.id = slices.geometry"
            " WHERE groups.patient = ? AND groups.uid = ? AND groups.folder = ?"
            " AND (? = 0 OR json_extract(value, '$[0]') = ? AND json_extract(value, '$[1]') = ?)",
            (*ids, matrix[0] * matrix[1], *matrix),
        ).fetchall()
        found: dict[int, _ScanOfIds] = {}
        for series, group, traits, path in rows:
            scan = found.setdefault(series, _ScanOfIds(series, set(), set(), set()))
            scan.lasting.add(self._lasting(group, traits))
            scan.traits.add(traits)
            scan.folders.add(path.rpartition(b"/")[0])
        return [found[series] for series in sorted(found)]

    def _find_lasting(self, group: int, traits: int) -> Lasting:
        (study,) = self._sql.execute("SELECT study FROM groups WHERE id = ?", (group,)).fetchone()
        values = self._sql.execute(
            f"SELECT {', '.join(LASTING)} FROM traits WHERE id = ?", (traits,)
        ).fetchone()
        return (study, *values)

    def _count_alike(self, ids: Ids) -> Counter[Lasting]:
        """How many slices with a fault have these ids, by their study and lasting traits."""
        rows = self._sql.execute(
            "SELECT faulty.grp, faulty.traits FROM faulty JOIN groups ON groups.id = faulty.grp"
            " WHERE patient = ? AND uid = ? AND folder = ?",
            ids,
        ).fetchall()
        return Counter(self._lasting(group, traits) for group, traits in rows)

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
