"""From DICOM slices to series: by series UID and matrix, and within these by one rule.

One series UID may hold several scans: scanners put reformats and several acquisitions, kernels or
image types under one UID, and anonymisers make UIDs equal or empty. One scan may also name several
patients or studies, and round its geometry in several ways. Names of files are not used.

1. Slices with one series UID are a family. Where it is empty, those of one folder or of one patient
   are (`families.py`).
2. A family is split where matrix, pixel spacing or orientation differ by more than rounding.
3. The rest is one rule (`scans.py`). Slices are divided by the values in which they differ into the
   fewest parts that are all one scan, by their positions and their thickness. A value never divides
   what is one scan, and never leaves together what is not. An ordinary series has one value of
   all, a number for each slice, and slices as thick as their distance: it is not looked at further.
4. Slices with a fault in their header join the series that they belong to (`faulty_slices.py`).

The id of a series is its UID. If patient, study and UID name several series, each gets `#` and 8
hex digits: the XXH3-64 of its matrix, spacing, orientation and of the values that divide it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from voco_data.dicom import Header, SliceIds, SliceTimes, StackKey
from voco_data.errors import SeriesRefused
from voco_data.layouts.families import find_families
from voco_data.layouts.faulty_slices import FAULTY, FaultySlices
from voco_data.layouts.scans import find_scans
from voco_data.layouts.series_slices import load_slices
from voco_data.layouts.stack_geometry import (
    ROUNDED,
    Geometry,
    geometry_of,
    merge_close_values,
    normal_of,
)
from voco_data.layouts.table import IndexTable, common_folder, path_text
from voco_data.storage import escape_undecodable
from voco_data.volumes import Triple

DEPTH_DECIMALS = 2
"""Slices with equal depth along the normal, rounded to 0.01 mm, have one position."""

MAX_SLICES = 20_000
"""Slices that are compared at once. One scan has fewer; larger families are split by their ids."""

CONTIGUOUS = (0.9, 1.1)
"""Thickness of the slices of an ordinary series, as a multiple of their distance."""

_PAGE = 1000
"""Series whose numbers are in memory."""

_MAX_CACHED_IDS = 4096
"""Number of row ids in the cache."""

_KEY_COLUMNS = StackKey._fields

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS groups (
    id INTEGER PRIMARY KEY, patient TEXT, study TEXT, uid TEXT, folder BLOB, family INTEGER,
    UNIQUE (patient, study, uid, folder)
);
CREATE TABLE IF NOT EXISTS geometries (
    id INTEGER PRIMARY KEY, grp INTEGER, value TEXT, stack TEXT, series INTEGER,
    normal_x REAL, normal_y REAL, normal_z REAL, UNIQUE (grp, value)
);
CREATE TABLE IF NOT EXISTS traits (
    id INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT" for name in _KEY_COLUMNS)},
    UNIQUE ({", ".join(_KEY_COLUMNS)})
);
"""

_DEPTH = f"ROUND(x_mm * normal_x + y_mm * normal_y + z_mm * normal_z, {DEPTH_DECIMALS})"


class StackGrouper:
    """Collects the slices of an archive, and groups them into series."""

    def __init__(self, table: IndexTable, base: Path) -> None:
        """`base` is the folder of the archive."""
        self._table = table
        self._sql = table.connection
        for statement in _SCHEMA.split(";"):
            self._sql.execute(statement)
        self._cached_ids: dict[tuple[object, ...], int] = {}
        self._last_shared: tuple[object | None, str] = (None, "")
        self._last_ids = (0, "", 0)
        self._faulty = FaultySlices(table)
        self._base = base

    def add(
        self,
        file: int,
        folder: str,
        header: Header,
        key: StackKey,
        times: SliceTimes,
        *,
        shared: object | None = None,
        end_mm: Triple | None = None,
    ) -> None:
        """Add the slice of a file in `folder`, a path relative to the archive.

        Headers with one `shared` object differ in position and number only. Of an object of
        several frames, `header` is that of the frame at one end, and `end_mm` is the position of
        the frame at the other.
        """
        last, last_folder = self._last_shared
        if shared is None or shared is not last or folder != last_folder:
            self._last_shared = (shared, folder)
            self._last_ids = (
                self._group(folder, header.patient_id, header.study_uid, header.series_uid),
                json.dumps(geometry_of(header)),
                self._row_id("traits", _KEY_COLUMNS, tuple(map(escape_undecodable, key))),
            )
        group, value, traits = self._last_ids
        self._table.add_slice(
            file,
            None,
            self._row_id("geometries", ("grp", "value"), (group, value)),
            traits,
            position_mm=header.position_mm,
            frames=header.frames,
            ids=group,
            times=times,
            number=header.instance_number,
            end_mm=end_mm,
        )

    def add_faulty(
        self,
        file: int,
        path: str,
        refusal: SeriesRefused,
        ids: SliceIds | None,
        key: StackKey | None,
    ) -> None:
        """Add a file of DICOM whose header has a fault; without ids, its folder decides."""
        folder = path.rpartition("/")[0]
        group = traits = None
        if ids is not None and key is not None:
            group = self._group(folder, ids.patient_id, ids.study_uid, ids.series_uid)
            traits = self._row_id("traits", _KEY_COLUMNS, tuple(map(escape_undecodable, key)))
        self._faulty.add(file, path, refusal, ids, group, traits)

    def form_series(self) -> None:
        """Group all slices into series, still without ids."""
        find_families(self._sql)
        self._split_by_geometry()
        for series in self._large_series():
            self._split_large(series)
        for series in self._unusual_series():
            self._split_into_scans(series)
        self._faulty.attach()
        self._sql.execute(
            "UPDATE series SET grp = (SELECT family FROM groups WHERE groups.id = grp)"
            " WHERE stack LIKE ?",
            (f"{FAULTY}%",),
        )

    def name_series(self) -> None:
        """Set the ids of every series. Requires `IndexTable.set_file_ranges`."""
        self._sql.execute("CREATE INDEX IF NOT EXISTS series_grp ON series (grp)")
        update = self._sql.cursor()
        families = self._sql.execute(
            "SELECT family, MIN(uid) FROM groups GROUP BY family ORDER BY family"
        )
        for family, uid in families:
            rows = update.execute(
                "SELECT id, stack, first, last FROM series WHERE grp = ?", (family,)
            ).fetchall()
            ids = {number: self._first_ids(number) for number, *_ in rows}
            n_series = Counter(ids[number][:2] for number, *_ in rows)
            faulty = {number for number, stack, *_ in rows if stack.startswith(FAULTY)}
            n_stacks = Counter(ids[number][:2] for number, *_ in rows if number not in faulty)
            for number, stack, first, last in rows:
                patient, study, group_folder = ids[number]
                # Slices of another kind that are refused do not change the id of the series.
                is_only = n_series[patient, study] == 1 or (
                    n_stacks[patient, study] == 1 and number not in faulty
                )
                if uid and is_only:
                    series_uid = uid
                elif uid:
                    series_uid = f"{uid}#{_short_hash(stack)}"
                else:
                    series_uid = f"{path_text(group_folder)}#{_short_hash(patient, study, stack)}"
                # Anonymisers may empty every PatientID; study or folder then distinguish patients.
                update.execute(
                    "UPDATE series SET patient = ?, study = ?, uid = ? WHERE id = ?",
                    (
                        patient or study or path_text(common_folder(first, last)),
                        study,
                        series_uid,
                        number,
                    ),
                )

    def _first_ids(self, series: int) -> tuple[str, str, bytes]:
        """Patient and study of a series: of several, the first in their order, if not empty.

        The folder is the first of those that stand for an empty UID.
        """
        rows = self._sql.execute(
            "SELECT patient, study, folder FROM groups WHERE id IN"
            " (SELECT DISTINCT ids FROM slices WHERE series = ? AND ids IS NOT NULL)"
            " ORDER BY patient = '', patient, study = '', study",
            (series,),
        ).fetchall()
        patient, study, _ = rows[0]
        return patient, study, min(folder for *_, folder in rows)

    def _group(self, folder: str, patient_id: str, study_uid: str, series_uid: str) -> int:
        group_folder = b"" if series_uid else os.fsencode(folder)
        ids = (patient_id, study_uid, series_uid)
        return self._row_id(
            "groups",
            ("patient", "study", "uid", "folder"),
            (*map(escape_undecodable, ids), group_folder),
        )

    def _split_by_geometry(self) -> None:
        update = self._sql.cursor()
        families = self._sql.execute("SELECT DISTINCT family FROM groups ORDER BY family")
        for (family,) in families:
            rows = update.execute(
                "SELECT geometries.id, value FROM groups JOIN geometries ON grp = groups.id"
                " WHERE family = ? ORDER BY geometries.id",
                (family,),
            ).fetchall()
            if not rows:  # only slices with a fault
                continue
            values = [tuple(json.loads(value)) for _, value in rows]
            equal = merge_close_values(values)
            stacks: dict[Geometry, list[int]] = {}
            for index, rounded in enumerate(merge_close_values(values, ROUNDED)):
                stacks.setdefault(rounded, []).append(index)
            for members in stacks.values():
                stack = min(json.dumps(equal[index]) for index in members)
                series = self._table.add_series("dicom", grp=family, stack=stack)
                normal = normal_of(min(equal[index] for index in members))
                update.executemany(
                    "UPDATE geometries SET stack = ?, series = ?, normal_x = ?, normal_y = ?,"
                    " normal_z = ? WHERE id = ?",
                    (
                        (json.dumps(equal[index]), series, *normal, rows[index][0])
                        for index in members
                    ),
                )
        # All slices of a stack use one normal: their own normals differ by rounding, which far from
        # the origin would change their depths.
        self._sql.execute(
            f"UPDATE slices SET (series, depth_mm) = (SELECT series, {_DEPTH}"
            " FROM geometries WHERE id = geometry) WHERE geometry IS NOT NULL"
        )
        self._sql.execute("CREATE INDEX IF NOT EXISTS slices_series ON slices (series)")

    def _large_series(self) -> list[int]:
        rows = self._sql.execute(
            "SELECT series FROM slices WHERE series IS NOT NULL GROUP BY series"
            " HAVING SUM(frames) > ? ORDER BY series",
            (MAX_SLICES,),
        )
        return [series for (series,) in rows]

    def _split_large(self, series: int) -> None:
        """Split a series with too many slices by patient, then by study, then by folder."""
        self._sql.create_function("folder_of", 1, _folder_of, deterministic=True)
        pending = [series]
        for value in ("patient", "study", "folder_of(path)"):
            large, pending = pending, []
            for number in large:
                pending += [n for n in self._split_by(number, value) if self._is_large(n)]

    def _is_large(self, series: int) -> bool:
        (count,) = self._sql.execute(
            "SELECT SUM(frames) FROM slices WHERE series = ?", (series,)
        ).fetchone()
        return bool(count > MAX_SLICES)

    def _split_by(self, series: int, value: str) -> list[int]:
        """Give the slices with each value of an SQL expression a series of their own."""
        self._sql.execute("CREATE TEMP TABLE values_of (file INTEGER PRIMARY KEY, value)")
        self._sql.execute(
            f"INSERT INTO values_of SELECT file, {value} FROM slices"
            " JOIN files ON files.id = file JOIN groups ON groups.id = ids WHERE series = ?",
            (series,),
        )
        self._sql.execute("CREATE INDEX values_of_value ON values_of (value)")
        values = self._sql.execute("SELECT DISTINCT value FROM values_of ORDER BY value").fetchall()
        parts = [series]
        for (found,) in values[1:]:
            named = f" folder={path_text(found)}" if isinstance(found, bytes) else ""
            parts.append(self._add_part(series, named))
            self._sql.execute(
                "UPDATE slices SET series = ?"
                " WHERE file IN (SELECT file FROM values_of WHERE value = ?)",
                (parts[-1], found),
            )
        self._sql.execute("DROP TABLE values_of")
        return parts

    def _unusual_series(self) -> Iterator[int]:
        """Series that may be several scans: all but those of one contiguous stack of one kind."""
        last = -1
        while True:
            # Each page is read to its end, because the caller changes slices between rows.
            rows = self._sql.execute(
                "SELECT series, n, n_frames, n_depths, n_numbers, low, high, has_one_value,"
                " thickness FROM (SELECT series, COUNT(*) AS n, SUM(frames) AS n_frames,"
                " COUNT(DISTINCT depth_mm) AS n_depths, COUNT(DISTINCT number) AS n_numbers,"
                " MIN(depth_mm) AS low, MAX(depth_mm) AS high, MIN(traits) AS kind,"
                " MIN(geometry) = MAX(geometry) AND MIN(ids) = MAX(ids)"
                " AND MIN(traits) = MAX(traits) AS has_one_value"
                " FROM slices WHERE series > ? AND geometry IS NOT NULL"
                " GROUP BY series ORDER BY series LIMIT ?)"
                " JOIN traits ON traits.id = kind ORDER BY series",
                (last, _PAGE),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for row in rows:
                series, count, n_frames, n_depths, n_numbers, low, high, is_one, thickness = row
                # Numbers are distinct, or there are none: they do not begin anew.
                is_plain = is_one and n_depths == count == n_frames and n_numbers in (1, count)
                if (
                    count > 1
                    and n_frames <= MAX_SLICES
                    and not (is_plain and _is_contiguous(thickness, (high - low) / (count - 1)))
                ):
                    yield series

    def _split_into_scans(self, series: int) -> None:
        slices = load_slices(self._sql, series)
        (by_folder,) = self._sql.execute(
            "SELECT groups.uid = '' FROM series JOIN groups ON groups.id = grp WHERE series.id = ?",
            (series,),
        ).fetchone()
        scans = find_scans(slices, self._base, by_folder=bool(by_folder))
        if len(scans) < 2:
            return
        for scan in scans:
            geometry = slices.labels["geometry"]
            codes = set(geometry.codes[scan.slices].tolist())
            stack = min(json.dumps(geometry.values[code]) for code in codes)
            part = self._add_part(series, f" {scan.value}" if scan.value else "", stack)
            self._sql.executemany(
                "UPDATE slices SET series = ? WHERE file = ?",
                ((part, file) for file in np.unique(slices.files[scan.slices]).tolist()),
            )
        self._sql.execute("DELETE FROM series WHERE id = ?", (series,))

    def _add_part(self, series: int, value: str, stack: str | None = None) -> int:
        family, whole = self._sql.execute(
            "SELECT grp, stack FROM series WHERE id = ?", (series,)
        ).fetchone()
        return self._table.add_series("dicom", grp=family, stack=f"{stack or whole}{value}")

    def _row_id(self, table: str, columns: Sequence[str], values: tuple[object, ...]) -> int:
        """The id of the row with these values, which is added if it is missing."""
        cached = self._cached_ids.get((table, *values))
        if cached is not None:
            return cached
        marks = ", ".join("?" * len(columns))
        self._sql.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})",
            values,
        )
        condition = " AND ".join(f"{name} = ?" for name in columns)
        (number,) = self._sql.execute(
            f"SELECT id FROM {table} WHERE {condition}", values
        ).fetchone()
        if len(self._cached_ids) >= _MAX_CACHED_IDS:
            self._cached_ids.clear()
        self._cached_ids[(table, *values)] = number
        return int(number)


def _is_contiguous(thickness: str, distance_mm: float) -> bool:
    low, high = CONTIGUOUS
    try:
        return low * distance_mm <= float(thickness) <= high * distance_mm
    except ValueError:
        return False


def _folder_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _short_hash(*values: str) -> str:
    return xxhash.xxh3_64_hexdigest("\0".join(values).encode())[:8]
