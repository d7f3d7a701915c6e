"""From DICOM slices to series: by patient, study and series UID, and within these by geometry.

One series UID may hold several stacks: scanners put reformats and several acquisitions, kernels
or image types under one UID, and anonymisers make UIDs equal or empty. Names of files and
instance numbers are not used.

1. Slices with one patient, study and series UID are a group. Where the series UID is empty, the
   folder takes its place.
2. A group is split where matrix, pixel spacing or orientation differ by more than a tolerance.
3. Where two slices of a stack still lie at one position, the first of AcquisitionNumber,
   ConvolutionKernel, ImageType and EchoNumbers that tells them apart splits the stack, unless it
   would leave mostly single slices; then the next one, on what is left. So does one by which the
   stack is two even stacks, one between the other: two phases would pass for one fine volume.
   Parts that follow each other (step and shoot) stay together.

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
from voco_data.layouts.table import IndexTable, as_text, common_folder
from voco_data.storage import escape_undecodable
from voco_data.volumes import GapPolicy, Triple, even_positions

SPACING_TOLERANCE = 1e-3
"""Pixel spacings that differ by a smaller fraction are one."""

ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines that differ by less are one."""

DEPTH_DECIMALS = 2
"""Slices with equal depth along the normal, rounded to 0.01 mm, lie at one position."""

FEWEST_OF_A_STACK = 4
"""A part with fewer slices may be evenly spaced by chance."""

EVEN = GapPolicy(tolerance=0.05)
"""What counts as evenly spaced when a stack may be split in two."""

TRAITS = StackKey._fields
"""Columns that may split a stack, in the order in which they are tried."""

_REMEMBERED = 4096
"""How many row ids are cached."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS groups (
    id INTEGER PRIMARY KEY, patient TEXT, study TEXT, uid TEXT, place BLOB,
    UNIQUE (patient, study, uid, place)
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


class Stacks:
    """Collects slices, then groups them into series."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._sql = table.connection
        for statement in _SCHEMA.split(";"):
            self._sql.execute(statement)
        self._remembered: dict[tuple[object, ...], int] = {}

    def add(self, file: int, folder: str, header: Header, key: StackKey) -> None:
        """Add the slice of a file in `folder`, a path relative to the archive."""
        place = b"" if header.series_uid else os.fsencode(folder)
        group = self._intern(
            "groups",
            ("patient", "study", "uid", "place"),
            (
                escape_undecodable(header.patient_id),
                escape_undecodable(header.study_uid),
                escape_undecodable(header.series_uid),
                place,
            ),
        )
        value = json.dumps(_geometry(header))
        geometry = self._intern("geometries", ("grp", "value"), (group, value))
        traits = self._intern("traits", TRAITS, tuple(map(escape_undecodable, key)))
        self._table.add_slice(
            file, None, geometry, traits, position_mm=header.position_mm, frames=header.frames
        )

    def form(self) -> None:
        """Group all slices into series; these have no ids yet."""
        self._split_by_geometry()
        has_split = True
        while has_split:  # after a split by one trait, an earlier trait may split the parts
            has_split = False
            for name in TRAITS:
                for series in sorted({*self._colliding_by(name), *self._interleaved_by(name)}):
                    has_split |= self._split(series, name)

    def name(self) -> None:
        """Give every series its ids. Call `IndexTable.locate` before."""
        self._sql.execute("CREATE INDEX IF NOT EXISTS series_grp ON series (grp)")
        update = self._sql.cursor()
        for group, patient, study, uid, place in self._sql.execute("SELECT * FROM groups"):
            stacks = update.execute(
                "SELECT id, stack, first, last FROM series WHERE grp = ?", (group,)
            ).fetchall()
            folder = common_folder(min(row[2] for row in stacks), max(row[3] for row in stacks))
            for number, stack, *_ in stacks:
                if uid and len(stacks) == 1:
                    series_uid = uid
                elif uid:
                    series_uid = f"{uid}#{_suffix(stack)}"
                else:
                    series_uid = f"{as_text(place)}#{_suffix(patient, study, stack)}"
                # Anonymisers may empty every PatientID: those patients must stay apart.
                update.execute(
                    "UPDATE series SET patient = ?, study = ?, uid = ? WHERE id = ?",
                    (patient or study or as_text(folder), study, series_uid, number),
                )

    def _split_by_geometry(self) -> None:
        update = self._sql.cursor()
        for (group,) in self._sql.execute("SELECT id FROM groups"):
            rows = update.execute(
                "SELECT id, value FROM geometries WHERE grp = ?", (group,)
            ).fetchall()
            made: dict[Geometry, int] = {}
            for (geometry, _), low in zip(
                rows, representatives([json.loads(value) for _, value in rows]), strict=True
            ):
                if low not in made:
                    stack = json.dumps(low)
                    made[low] = self._table.add_series("dicom", grp=group, stack=stack)
                update.execute(
                    "UPDATE geometries SET series = ?, normal_x = ?, normal_y = ?, normal_z = ?"
                    " WHERE id = ?",
                    (made[low], *_normal(low), geometry),
                )
        # All slices of a stack use one normal: their own directions differ by rounding, and far
        # from the origin that would move their depths.
        self._sql.execute(
            "UPDATE slices SET (series, depth_mm) = (SELECT series,"
            f" ROUND(x_mm * normal_x + y_mm * normal_y + z_mm * normal_z, {DEPTH_DECIMALS})"
            " FROM geometries WHERE id = geometry) WHERE geometry IS NOT NULL"
        )
        self._sql.execute("CREATE INDEX IF NOT EXISTS slices_series ON slices (series)")

    def _colliding_by(self, name: str) -> list[int]:
        """Stacks in which slices at one position differ in this trait."""
        rows = self._sql.execute(
            f"SELECT DISTINCT series FROM slices JOIN traits ON traits.id = slices.traits"
            f" GROUP BY series, depth_mm HAVING COUNT(*) > 1 AND COUNT(DISTINCT {name}) > 1"
        )
        return [series for (series,) in rows]

    def _interleaved_by(self, name: str) -> list[int]:
        """Stacks that this trait splits into evenly spaced stacks, one between the other."""
        rows = self._sql.execute(
            "SELECT series FROM slices JOIN traits ON traits.id = slices.traits"
            f" GROUP BY series HAVING COUNT(DISTINCT {name}) > 1"
        ).fetchall()
        return [series for (series,) in rows if _interleave(self._even_parts(series, name))]

    def _even_parts(self, series: int, name: str) -> list[tuple[float, float]]:
        """Lowest and highest depth (mm) of every part that is evenly spaced, sorted."""
        rows = self._sql.execute(
            f"SELECT DISTINCT {name}, depth_mm FROM slices JOIN traits ON traits.id = slices.traits"
            f" WHERE series = ? AND depth_mm IS NOT NULL ORDER BY {name}, depth_mm",
            (series,),
        )
        parts = (np.array([depth for _, depth in part]) for _, part in groupby(rows, itemgetter(0)))
        return sorted((float(part[0]), float(part[-1])) for part in parts if _is_even(part))

    def _split(self, series: int, name: str) -> bool:
        """Split a stack by a trait, unless that leaves mostly single slices (then False)."""
        parts = self._sql.execute(
            f"SELECT {name}, COUNT(*), COUNT(DISTINCT depth_mm) FROM slices"
            f" JOIN traits ON traits.id = slices.traits WHERE series = ? GROUP BY {name}",
            (series,),
        ).fetchall()
        in_stacks = sum(count for _, count, positions in parts if positions > 1)
        if len(parts) < 2 or 2 * in_stacks < sum(count for _, count, _ in parts):
            return False
        group, stack = self._sql.execute(
            "SELECT grp, stack FROM series WHERE id = ?", (series,)
        ).fetchone()
        for value, *_ in parts:
            part = self._table.add_series("dicom", grp=group, stack=f"{stack} {name}={value}")
            self._sql.execute("INSERT INTO parts VALUES (?, ?)", (value, part))
        self._sql.execute(
            "UPDATE slices SET series = (SELECT part FROM parts JOIN traits"
            f" ON parts.value = traits.{name} WHERE traits.id = slices.traits) WHERE series = ?",
            (series,),
        )
        self._sql.execute("DELETE FROM parts")
        self._sql.execute("DELETE FROM series WHERE id = ?", (series,))
        return True

    def _intern(self, table: str, columns: Sequence[str], values: tuple[object, ...]) -> int:
        """The id of a row with these values, made if there is none."""
        known = self._remembered.get((table, *values))
        if known is not None:
            return known
        marks = ", ".join("?" * len(columns))
        self._sql.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})",
            values,
        )
        condition = " AND ".join(f"{name} = ?" for name in columns)
        (number,) = self._sql.execute(
            f"SELECT id FROM {table} WHERE {condition}", values
        ).fetchone()
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[(table, *values)] = number
        return int(number)


def representatives(values: Sequence[Geometry]) -> list[Geometry]:
    """Replace each value of each geometry by the lowest value that is equal within tolerance.

    Values are equal if, in sorted order, no gap between them exceeds the tolerance. So the result
    depends neither on the order of the files nor on fixed bin edges.
    """
    table = np.array(values, np.float64)
    for column, values_of in enumerate(table.T):
        known = np.unique(values_of)
        with np.errstate(over="ignore"):  # hostile headers may hold huge values
            gaps = np.diff(known)
        starts = np.concatenate([[True], gaps > _tolerance(column) * _scale(column, known[:-1])])
        lows = known[np.maximum.accumulate(np.where(starts, np.arange(len(known)), 0))]
        table[:, column] = lows[np.searchsorted(known, values_of)]
    return [tuple(row) for row in table.tolist()]


def _is_even(depths_mm: npt.NDArray[np.float64]) -> bool:
    if len(depths_mm) < FEWEST_OF_A_STACK or not np.isfinite(depths_mm).all():
        return False
    try:
        even_positions(depths_mm, EVEN)
    except SeriesRefused:
        return False
    return True


def _interleave(spans: Sequence[tuple[float, float]]) -> bool:
    """Whether two of these sorted spans share half of the shorter one, or more."""
    for index, (low, high) in enumerate(spans):
        for other_low, other_high in spans[index + 1 :]:
            if other_low >= high:
                break
            shared = min(high, other_high) - other_low
            if 2 * shared >= min(high - low, other_high - other_low):
                return True
    return False


def _normal(geometry: Geometry) -> Triple:
    """The unit normal of a stack; zeros where its two directions are parallel or zero."""
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


def _suffix(*values: str) -> str:
    return xxhash.xxh3_64_hexdigest("\0".join(values).encode())[:8]
