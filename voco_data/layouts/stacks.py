"""From DICOM slices to series: by patient, study and series UID, and within these by geometry.

One series UID may hold several stacks: scanners put reformats and several acquisitions, kernels
or image types under one UID, and anonymisers make UIDs equal or empty. Names of files and
instance numbers are not used.

1. Slices with one patient, study and series UID are a group. Where the series UID is empty, the
   folder is used instead. Groups of one series UID are joined if their slices are one scan
   (`shared_uids.py`).
2. A group is split where matrix, pixel spacing or orientation differ by more than a tolerance.
3. Where two slices of a stack still lie at one position, the first of the traits in which they
   differ splits the stack, unless that would leave mostly single slices; then the next one is tried
   on the parts. A trait also splits a stack into evenly spaced, interleaved parts: two phases would
   look like one volume of thin slices. Parts that follow each other (step and shoot) stay together
   (`stack_traits.py`).
4. Stacks of a group that differ only by the rounding of their geometry are joined again if they are
   one scan. Its reader accepts or refuses it, as a whole.
5. Slices with a fault in their header join the series that they belong to (`faulty_slices.py`).

The id of a series is its UID. If a group has several stacks, each gets `#` and 8 hex digits: the
XXH3-64 of its matrix, spacing, orientation and of the values that split it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import xxhash

from voco_data.dicom import Header, SliceIds, SliceTimes, StackKey
from voco_data.errors import SeriesRefused
from voco_data.layouts.faulty_slices import FAULTY, FaultySlices
from voco_data.layouts.one_scan import are_one_scan
from voco_data.layouts.shared_uids import join_groups
from voco_data.layouts.stack_geometry import (
    ROUNDED,
    Geometry,
    geometry_of,
    merge_close_values,
    normal_of,
)
from voco_data.layouts.stack_traits import TRAITS, TraitSplitter
from voco_data.layouts.table import IndexTable, common_folder, path_text
from voco_data.storage import escape_undecodable

DEPTH_DECIMALS = 2
"""Slices with equal depth along the normal, rounded to 0.01 mm, have one position."""

_MAX_PAIRED = 16
"""Stacks of almost one geometry that are compared two by two."""

_MAX_CACHED_IDS = 4096
"""Number of row ids in the cache."""

_KEY_COLUMNS = StackKey._fields

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS groups (
    id INTEGER PRIMARY KEY, patient TEXT, study TEXT, uid TEXT, folder BLOB,
    UNIQUE (patient, study, uid, folder)
);
CREATE TABLE IF NOT EXISTS geometries (
    id INTEGER PRIMARY KEY, grp INTEGER, value TEXT, series INTEGER,
    normal_x REAL, normal_y REAL, normal_z REAL, UNIQUE (grp, value)
);
CREATE TABLE IF NOT EXISTS traits (
    id INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT" for name in _KEY_COLUMNS)},
    UNIQUE ({", ".join(_KEY_COLUMNS)})
);
CREATE TABLE IF NOT EXISTS parts (value TEXT PRIMARY KEY, part INTEGER);
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
        self._traits = TraitSplitter(self._sql, base, self._add_part)

    def add(
        self,
        file: int,
        folder: str,
        header: Header,
        key: StackKey,
        times: SliceTimes,
        *,
        shared: object | None = None,
    ) -> None:
        """Add the slice of a file in `folder`, a path relative to the archive.

        Headers with one `shared` object differ in position and number only.
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
        )

    def add_faulty(
        self, file: int, path: str, refusal: SeriesRefused, ids: SliceIds | None
    ) -> None:
        """Add a file of DICOM whose header has a fault; without ids, its folder decides."""
        folder = path.rpartition("/")[0]
        group = None
        if ids is not None:
            group = self._group(folder, ids.patient_id, ids.study_uid, ids.series_uid)
        self._faulty.add(file, path, refusal, ids, group)

    def form_series(self) -> None:
        """Group all slices into series, still without ids."""
        join_groups(self._sql)
        self._split_by_geometry()
        self._traits.split_all()
        self._rejoin_rounded()
        self._faulty.attach()

    def name_series(self) -> None:
        """Set the ids of every series. Requires `IndexTable.set_file_ranges`."""
        self._sql.execute("CREATE INDEX IF NOT EXISTS series_grp ON series (grp)")
        update = self._sql.cursor()
        for group, patient, study, uid, group_folder in self._sql.execute("SELECT * FROM groups"):
            stacks = update.execute(
                "SELECT id, stack, first, last FROM series WHERE grp = ?", (group,)
            ).fetchall()
            if not stacks:  # joined to another group
                continue
            folder = common_folder(min(row[2] for row in stacks), max(row[3] for row in stacks))
            n_stacks = sum(stack != FAULTY for _, stack, *_ in stacks)
            for number, stack, *_ in stacks:
                # Slices of another kind that are refused do not change the id of the series.
                if uid and (len(stacks) == 1 or (n_stacks == 1 and stack != FAULTY)):
                    series_uid = uid
                elif uid:
                    series_uid = f"{uid}#{_short_hash(stack)}"
                else:
                    series_uid = f"{path_text(group_folder)}#{_short_hash(patient, study, stack)}"
                own_patient, own_study = self._first_ids(number)
                # Anonymisers may empty every PatientID; study or folder then distinguish patients.
                update.execute(
                    "UPDATE series SET patient = ?, study = ?, uid = ? WHERE id = ?",
                    (
                        own_patient or own_study or path_text(folder),
                        own_study,
                        series_uid,
                        number,
                    ),
                )

    def _first_ids(self, series: int) -> tuple[str, str]:
        """Patient and study of a series: of several, the first in their order, if not empty."""
        patient, study = self._sql.execute(
            "SELECT patient, study FROM groups WHERE id IN"
            " (SELECT DISTINCT ids FROM slices WHERE series = ? AND ids IS NOT NULL)"
            " ORDER BY patient = '', patient, study = '', study LIMIT 1",
            (series,),
        ).fetchone()
        return patient, study

    def _group(self, folder: str, patient_id: str, study_uid: str, series_uid: str) -> int:
        group_folder = b"" if series_uid else os.fsencode(folder)
        ids = (patient_id, study_uid, series_uid)
        return self._row_id(
            "groups",
            ("patient", "study", "uid", "folder"),
            (*map(escape_undecodable, ids), group_folder),
        )

    def _add_part(self, series: int, value: str) -> int:
        group, stack = self._sql.execute(
            "SELECT grp, stack FROM series WHERE id = ?", (series,)
        ).fetchone()
        return self._table.add_series("dicom", grp=group, stack=f"{stack} {value}")

    def _split_by_geometry(self) -> None:
        update = self._sql.cursor()
        for (group,) in self._sql.execute("SELECT id FROM groups"):
            rows = update.execute(
                "SELECT id, value FROM geometries WHERE grp = ?", (group,)
            ).fetchall()
            if not rows:  # joined to another group, or only slices with a fault
                continue
            series_of: dict[Geometry, int] = {}
            for (geometry, _), merged in zip(
                rows, merge_close_values([json.loads(value) for _, value in rows]), strict=True
            ):
                if merged not in series_of:
                    stack = json.dumps(merged)
                    series_of[merged] = self._table.add_series("dicom", grp=group, stack=stack)
                update.execute(
                    "UPDATE geometries SET series = ?, normal_x = ?, normal_y = ?, normal_z = ?"
                    " WHERE id = ?",
                    (series_of[merged], *normal_of(merged), geometry),
                )
        # All slices of a stack use one normal: their own normals differ by rounding, which far from
        # the origin would change their depths.
        self._sql.execute(
            f"UPDATE slices SET (series, depth_mm) = (SELECT series, {_DEPTH}"
            " FROM geometries WHERE id = geometry) WHERE geometry IS NOT NULL"
        )
        self._sql.execute("CREATE INDEX IF NOT EXISTS slices_series ON slices (series)")

    def _rejoin_rounded(self) -> None:
        """Join series of one group that differ by rounding only, and are one scan."""
        groups = self._sql.execute(
            "SELECT grp FROM series WHERE grp IS NOT NULL GROUP BY grp HAVING COUNT(*) > 1"
        ).fetchall()
        for (group,) in groups:
            rows = self._sql.execute(
                "SELECT id, stack FROM series WHERE grp = ? ORDER BY stack", (group,)
            ).fetchall()
            decoder = json.JSONDecoder()
            decoded = [decoder.raw_decode(stack) for _, stack in rows]
            rounded = merge_close_values([value for value, _ in decoded], ROUNDED)
            alike: dict[tuple[Geometry, str], list[int]] = {}
            for (series, stack), (_, end), geometry in zip(rows, decoded, rounded, strict=True):
                alike.setdefault((geometry, stack[end:]), []).append(series)
            for (geometry, _), members in sorted(alike.items()):
                self._join_one_scan(members, geometry)

    def _join_one_scan(self, members: Sequence[int], geometry: Geometry) -> None:
        """Join all of these series if they are one scan, else any two that are."""
        if len(members) < 2:
            return
        if self._is_one_scan(members, geometry):
            self._join(members)
            return
        joined: set[int] = set()
        for pair in combinations(members[:_MAX_PAIRED], 2):
            if joined.isdisjoint(pair) and self._is_one_scan(pair, geometry):
                self._join(pair)
                joined.update(pair)

    def _is_one_scan(self, members: Sequence[int], geometry: Geometry) -> bool:
        if any(self._tells_apart(trait, members) for trait in TRAITS):
            return False
        parts = [
            np.array(
                self._sql.execute(
                    "SELECT x_mm, y_mm, z_mm FROM slices WHERE series = ?", (series,)
                ).fetchall()
            )
            for series in members
        ]
        return are_one_scan(parts, normal_of(geometry))

    def _tells_apart(self, trait: str, members: Sequence[int]) -> bool:
        """Whether no two of the series share a value of a trait."""
        seen: set[str] = set()
        for series in members:
            values = {
                value
                for (value,) in self._sql.execute(
                    f"SELECT DISTINCT {trait} FROM slices JOIN traits ON traits.id = slices.traits"
                    " WHERE series = ?",
                    (series,),
                )
            }
            if seen & values:
                return False
            seen |= values
        return True

    def _join(self, members: Sequence[int]) -> None:
        """Put the slices of several series into the first one."""
        target, *others = members
        for series in others:
            self._sql.execute("UPDATE slices SET series = ? WHERE series = ?", (target, series))
            self._sql.execute("DELETE FROM series WHERE id = ?", (series,))

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


def _short_hash(*values: str) -> str:
    return xxhash.xxh3_64_hexdigest("\0".join(values).encode())[:8]
