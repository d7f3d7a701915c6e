"""From DICOM slices to series: by patient, study and series UID, and within these by geometry.

One series UID may hold several stacks: scanners put reformats and several acquisitions, kernels
or image types under one UID, and anonymisers make UIDs equal or empty. Names of files and
instance numbers are not used.

1. Slices with one patient, study and series UID are a group. Where the series UID is empty, the
   folder is used instead.
2. A group is split where matrix, pixel spacing or orientation differ by more than a tolerance.
3. Where two slices of a stack still lie at one position, the first of AcquisitionNumber,
   ConvolutionKernel, ImageType and EchoNumbers in which they differ splits the stack, unless that
   would leave mostly single slices; then the next one is tried on the parts. A value also splits a
   stack into evenly spaced, interleaved parts: two phases would look like one volume of thin
   slices. Parts that follow each other (step and shoot) stay together.

The id of a series is its UID. If a group has several stacks, each gets `#` and 8 hex digits: the
XXH3-64 of its matrix, spacing, orientation and of the values that split it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.dicom import Header, StackKey
from voco_data.errors import SeriesRefused
from voco_data.layouts.table import IndexTable, common_folder, path_text
from voco_data.storage import escape_undecodable
from voco_data.volumes import GapPolicy, Triple, even_positions

SPACING_TOLERANCE = 1e-3
"""Pixel spacings that differ by a smaller fraction count as equal."""

ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines that differ by less count as equal."""

DEPTH_DECIMALS = 2
"""Slices with equal depth along the normal, rounded to 0.01 mm, have one position."""

MIN_STACK_SLICES = 4
"""Least slices of an evenly spaced part; fewer may be evenly spaced by chance."""

SPLIT_POLICY = GapPolicy(tolerance=0.05)
"""Which parts of a stack count as evenly spaced."""

TRAITS = StackKey._fields
"""Columns of the values that may split a stack, in the order in which they are tried."""

_MAX_CACHED_IDS = 4096
"""Number of row ids in the cache."""

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
    id INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT" for name in TRAITS)},
    UNIQUE ({", ".join(TRAITS)})
);
CREATE TABLE IF NOT EXISTS parts (value TEXT PRIMARY KEY, part INTEGER);
"""

Geometry = tuple[float, ...]
"""Rows, columns, 1 for a multi-frame file or 0; two spacings (mm); six direction cosines."""


class StackGrouper:
    """Collects the slices of an archive, and groups them into series."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._sql = table.connection
        for statement in _SCHEMA.split(";"):
            self._sql.execute(statement)
        self._cached_ids: dict[tuple[object, ...], int] = {}

    def add(self, file: int, folder: str, header: Header, key: StackKey) -> None:
        """Add the slice of a file in `folder`, a path relative to the archive."""
        group_folder = b"" if header.series_uid else os.fsencode(folder)
        group = self._row_id(
            "groups",
            ("patient", "study", "uid", "folder"),
            (
                escape_undecodable(header.patient_id),
                escape_undecodable(header.study_uid),
                escape_undecodable(header.series_uid),
                group_folder,
            ),
        )
        value = json.dumps(_geometry(header))
        geometry = self._row_id("geometries", ("grp", "value"), (group, value))
        traits = self._row_id("traits", TRAITS, tuple(map(escape_undecodable, key)))
        self._table.add_slice(
            file, None, geometry, traits, position_mm=header.position_mm, frames=header.frames
        )

    def form_series(self) -> None:
        """Group all slices into series, still without ids."""
        self._split_by_geometry()
        has_split = True
        while has_split:  # an earlier trait may split the parts that a later one made
            has_split = False
            for trait in TRAITS:
                colliding = self._series_with_collisions(trait)
                for series in sorted({*colliding, *self._interleaved_series(trait)}):
                    has_split |= self._split(series, trait)

    def name_series(self) -> None:
        """Set the ids of every series. Requires `IndexTable.set_file_ranges`."""
        self._sql.execute("CREATE INDEX IF NOT EXISTS series_grp ON series (grp)")
        update = self._sql.cursor()
        for group, patient, study, uid, group_folder in self._sql.execute("SELECT * FROM groups"):
            stacks = update.execute(
                "SELECT id, stack, first, last FROM series WHERE grp = ?", (group,)
            ).fetchall()
            folder = common_folder(min(row[2] for row in stacks), max(row[3] for row in stacks))
            for number, stack, *_ in stacks:
                if uid and len(stacks) == 1:
                    series_uid = uid
                elif uid:
                    series_uid = f"{uid}#{_short_hash(stack)}"
                else:
                    series_uid = f"{path_text(group_folder)}#{_short_hash(patient, study, stack)}"
                # Anonymisers may empty every PatientID; study or folder then distinguish patients.
                update.execute(
                    "UPDATE series SET patient = ?, study = ?, uid = ? WHERE id = ?",
                    (patient or study or path_text(folder), study, series_uid, number),
                )

    def _split_by_geometry(self) -> None:
        update = self._sql.cursor()
        for (group,) in self._sql.execute("SELECT id FROM groups"):
            rows = update.execute(
                "SELECT id, value FROM geometries WHERE grp = ?", (group,)
            ).fetchall()
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
                    (series_of[merged], *_normal(merged), geometry),
                )
        # All slices of a stack use one normal: their own normals differ by rounding, which far from
        # the origin would change their depths.
        self._sql.execute(
            "UPDATE slices SET (series, depth_mm) = (SELECT series,"
            f" ROUND(x_mm * normal_x + y_mm * normal_y + z_mm * normal_z, {DEPTH_DECIMALS})"
            " FROM geometries WHERE id = geometry) WHERE geometry IS NOT NULL"
        )
        self._sql.execute("CREATE INDEX IF NOT EXISTS slices_series ON slices (series)")

    def _series_with_collisions(self, trait: str) -> list[int]:
        """Series in which slices at one position differ in a trait."""
        rows = self._sql.execute(
            f"SELECT DISTINCT series FROM slices JOIN traits ON traits.id = slices.traits"
            f" GROUP BY series, depth_mm HAVING COUNT(*) > 1 AND COUNT(DISTINCT {trait}) > 1"
        )
        return [series for (series,) in rows]

    def _interleaved_series(self, trait: str) -> list[int]:
        """Series that a trait splits into evenly spaced, interleaved parts."""
        rows = self._sql.execute(
            "SELECT series FROM slices JOIN traits ON traits.id = slices.traits"
            f" GROUP BY series HAVING COUNT(DISTINCT {trait}) > 1"
        ).fetchall()
        return [series for (series,) in rows if _are_interleaved(self._even_parts(series, trait))]

    def _even_parts(self, series: int, trait: str) -> list[tuple[float, float]]:
        """Lowest and highest depth (mm) of every part that is evenly spaced, sorted."""
        rows = self._sql.execute(
            f"SELECT DISTINCT {trait}, depth_mm FROM slices"
            " JOIN traits ON traits.id = slices.traits"
            f" WHERE series = ? AND depth_mm IS NOT NULL ORDER BY {trait}, depth_mm",
            (series,),
        )
        parts = (np.array([depth for _, depth in part]) for _, part in groupby(rows, itemgetter(0)))
        return sorted(
            (float(part[0]), float(part[-1])) for part in parts if _is_evenly_spaced(part)
        )

    def _split(self, series: int, trait: str) -> bool:
        """Split a series by a trait. Returns False if that would leave mostly single slices."""
        parts = self._sql.execute(
            f"SELECT {trait}, COUNT(*), COUNT(DISTINCT depth_mm) FROM slices"
            f" JOIN traits ON traits.id = slices.traits WHERE series = ? GROUP BY {trait}",
            (series,),
        ).fetchall()
        n_stacked = sum(count for _, count, positions in parts if positions > 1)
        if len(parts) < 2 or 2 * n_stacked < sum(count for _, count, _ in parts):
            return False
        group, stack = self._sql.execute(
            "SELECT grp, stack FROM series WHERE id = ?", (series,)
        ).fetchone()
        for value, *_ in parts:
            part = self._table.add_series("dicom", grp=group, stack=f"{stack} {trait}={value}")
            self._sql.execute("INSERT INTO parts VALUES (?, ?)", (value, part))
        self._sql.execute(
            "UPDATE slices SET series = (SELECT part FROM parts JOIN traits"
            f" ON parts.value = traits.{trait} WHERE traits.id = slices.traits) WHERE series = ?",
            (series,),
        )
        self._sql.execute("DELETE FROM parts")
        self._sql.execute("DELETE FROM series WHERE id = ?", (series,))
        return True

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


def merge_close_values(values: Sequence[Geometry]) -> list[Geometry]:
    """Replace each number of each geometry by the lowest one that is equal within tolerance.

    Numbers are equal if, in sorted order, no gap between them exceeds the tolerance. So the result
    depends neither on the order of the files nor on fixed bin edges.
    """
    table = np.array(values, np.float64)
    for column, numbers in enumerate(table.T):
        distinct = np.unique(numbers)
        with np.errstate(over="ignore"):  # hostile headers may contain huge values
            gaps = np.diff(distinct)
        starts = np.concatenate([[True], gaps > _tolerance(column) * _scale(column, distinct[:-1])])
        lowest = distinct[np.maximum.accumulate(np.where(starts, np.arange(len(distinct)), 0))]
        table[:, column] = lowest[np.searchsorted(distinct, numbers)]
    return [tuple(row) for row in table.tolist()]


def _is_evenly_spaced(depths_mm: npt.NDArray[np.float64]) -> bool:
    if len(depths_mm) < MIN_STACK_SLICES or not np.isfinite(depths_mm).all():
        return False
    try:
        even_positions(depths_mm, SPLIT_POLICY)
    except SeriesRefused:
        return False
    return True


def _are_interleaved(spans: Sequence[tuple[float, float]]) -> bool:
    """Whether two of these sorted spans overlap by at least half of the shorter one."""
    for index, (low, high) in enumerate(spans):
        for other_low, other_high in spans[index + 1 :]:
            if other_low >= high:
                break
            shared = min(high, other_high) - other_low
            if 2 * shared >= min(high - low, other_high - other_low):
                return True
    return False


def _normal(geometry: Geometry) -> Triple:
    """The unit normal of a stack; zeros if its two directions are parallel or zero."""
    a, b, c, d, e, f = geometry[5:]
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.hypot(x, y, z)
    if not 0 < length < math.inf:
        return (0.0, 0.0, 0.0)
    return (x / length, y / length, z / length)


def _tolerance(column: int) -> float:
    return (0.0, SPACING_TOLERANCE, ORIENTATION_TOLERANCE)[(column >= 3) + (column >= 5)]


def _scale(column: int, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Factors of the tolerance: it is relative for spacings, and absolute for all other values."""
    return np.abs(values) if 3 <= column < 5 else np.ones_like(values)


def _geometry(header: Header) -> Geometry:
    multi = header.frames > 1  # a multi-frame file never joins a stack of single slices
    numbers = (*header.spacing_mm, *header.along_row, *header.along_column)
    return (header.rows, header.columns, multi, *(round(n, 6) + 0.0 for n in numbers))


def _short_hash(*values: str) -> str:
    return xxhash.xxh3_64_hexdigest("\0".join(values).encode())[:8]
