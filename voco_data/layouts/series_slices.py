"""The slices of a family in memory: their positions, and the values that may tell scans apart."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_data.dicom import TRAIT_NAMES, SliceTimes
from voco_data.layouts.one_scan import Thickness
from voco_data.layouts.stack_geometry import Geometry, normal_of
from voco_data.volumes import Triple

TIMES = SliceTimes._fields
"""Columns of `slices` with times, in the order in which they are tried."""

TRAITS = tuple(name for name in TRAIT_NAMES if name not in TIMES)
"""Columns of `traits`, in the order in which they are tried."""

IDS = ("patient", "study", "geometry")
"""Values by which slices are several scans, unless their positions show that they are one."""

FOLDER = "folder"

LABELS = (*IDS, *TRAITS, *TIMES, FOLDER)
"""All values, in the order in which they are tried."""

MIN_SLICES_OF_TIME = 8
"""Times are labels if in the mean so many slices share one. Otherwise only their order counts."""

Indices = npt.NDArray[np.int64]
"""Indices of slices, or a number for each slice."""


@dataclass(frozen=True)
class Labels:
    """One value for each slice, as a number: its place in `values`."""

    codes: Indices
    values: tuple[Any, ...]


@dataclass(frozen=True)
class SeriesSlices:
    """Slices in the order of their paths; arrays have one row for each.

    Frames of one object are slices with one file.
    """

    files: Indices
    """Ids of the files."""
    paths: tuple[bytes, ...]
    positions: npt.NDArray[np.float64]
    """(n, 3) LPS mm."""
    numbers: Indices
    """InstanceNumber; -1 if it is missing, and for frames."""
    thickness: npt.NDArray[np.float64]
    """SliceThickness, mm; NaN if it is missing."""
    labels: dict[str, Labels]
    """By name, one of LABELS."""
    times: dict[str, Labels]
    """By name, one of TIMES; the values ascend, and a missing time is empty."""
    rows: dict[str, Indices]
    """`ids` and `traits` of each slice."""

    def __len__(self) -> int:
        return len(self.files)

    def take(self, chosen: Indices) -> SeriesSlices:
        """Some of the slices."""
        return SeriesSlices(
            files=self.files[chosen],
            paths=tuple(self.paths[index] for index in chosen.tolist()),
            positions=self.positions[chosen],
            numbers=self.numbers[chosen],
            thickness=self.thickness[chosen],
            labels={n: Labels(v.codes[chosen], v.values) for n, v in self.labels.items()},
            times={n: Labels(v.codes[chosen], v.values) for n, v in self.times.items()},
            rows={n: codes[chosen] for n, codes in self.rows.items()},
        )

    def with_folders(self, codes: Indices) -> SeriesSlices:
        """The same slices, with other folders: codes into the same values."""
        folders = Labels(codes, self.labels[FOLDER].values)
        return SeriesSlices(**(vars(self) | {"labels": self.labels | {FOLDER: folders}}))

    def normal(self, chosen: Indices) -> Triple:
        """The normal of some slices; their own normals differ by rounding."""
        geometry = self.labels["geometry"]
        used: list[Geometry] = [geometry.values[k] for k in np.unique(geometry.codes[chosen])]
        return normal_of(tuple(min(numbers) for numbers in zip(*used, strict=True)))

    def thickness_of(self, chosen: Indices) -> Thickness | None:
        """The thickness of some slices; None if most have none."""
        values = self.thickness[chosen]
        known = values[np.isfinite(values) & (values > 0)]
        if 2 * len(known) <= len(values):
            return None
        return Thickness(float(known.min()), float(known.max()))


def load_slices(sql: sqlite3.Connection, series: int) -> SeriesSlices:
    """The slices of a series that have a geometry."""
    rows = sql.execute(
        "SELECT file, path, frames, number, x_mm, y_mm, z_mm, end_x_mm, end_y_mm, end_z_mm,"
        f" geometry, traits, ids, {', '.join(TIMES)}"
        " FROM slices JOIN files ON files.id = slices.file"
        " WHERE series = ? AND geometry IS NOT NULL ORDER BY path",
        (series,),
    ).fetchall()
    rows = [slice_row for row in rows for slice_row in _frames(row)]
    files, paths, numbers, positions, geometries, traits, ids, *times = zip(*rows, strict=True)
    trait_rows = _lookup(sql, f"SELECT {', '.join(TRAITS)} FROM traits", traits)
    id_rows = _lookup(sql, "SELECT patient, study FROM groups", ids)
    geometry_rows = _lookup(sql, "SELECT stack FROM geometries", geometries)
    labels = {
        "patient": _label(ids, lambda number: id_rows[number][0]),
        "study": _label(ids, lambda number: id_rows[number][1]),
        "geometry": _label(geometries, lambda number: tuple(json.loads(geometry_rows[number][0]))),
        FOLDER: _label(paths, lambda path: path.rpartition(b"/")[0]),
    }
    for index, name in enumerate(TRAITS):
        values = {number: row[index] for number, row in trait_rows.items()}
        labels[name] = _label(traits, values.__getitem__)
    by_time = {name: _time(name, values) for name, values in zip(TIMES, times, strict=True)}
    labels |= {name: _coarse(time) for name, time in by_time.items()}
    column = TRAITS.index("thickness")
    thickness = {number: _number(row[column]) for number, row in trait_rows.items()}
    return SeriesSlices(
        files=np.array(files, np.int64),
        paths=paths,
        positions=np.array(positions, np.float64),
        numbers=np.array(numbers, np.int64),
        thickness=np.array([thickness[number] for number in traits]),
        labels=labels,
        times=by_time,
        rows={"ids": np.array(ids, np.int64), "traits": np.array(traits, np.int64)},
    )


def _frames(row: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """A row for each frame of an object: its frames lie on a line, at even distances."""
    file, path, frames, number, *values = row
    first, end, rest = values[:3], values[3:6], values[6:]
    if frames == 1:
        yield (file, path, number, tuple(first), *rest)
        return
    for position in np.linspace(first, end, frames).tolist():
        yield (file, path, -1, tuple(position), *rest)


def _coarse(time: Labels) -> Labels:
    """A time as a label, if each value is that of several slices; else one label for all."""
    if MIN_SLICES_OF_TIME * len(time.values) <= len(time.codes):
        return time
    return Labels(np.zeros_like(time.codes), ("",))


def _lookup(
    sql: sqlite3.Connection, query: str, numbers: Iterable[int]
) -> dict[int, tuple[Any, ...]]:
    return {
        number: sql.execute(f"{query} WHERE id = ?", (number,)).fetchone()
        for number in sorted(set(numbers))
    }


def _label(
    numbers: Sequence[Any], value_of: Callable[[Any], Any], key: Callable[[Any], Any] | None = None
) -> Labels:
    value_by_number = {number: value_of(number) for number in set(numbers)}
    values = tuple(sorted(set(value_by_number.values()), key=key))
    places = {value: place for place, value in enumerate(values)}
    code = {number: places[value] for number, value in value_by_number.items()}
    return Labels(np.array([code[number] for number in numbers], np.int64), values)


def _time(name: str, values: Sequence[str]) -> Labels:
    """Times in their order. TriggerTime is a number of milliseconds, and no time of the day."""
    if name != "trigger_time":
        return _label(values, lambda value: value)
    return _label(values, lambda value: value, key=lambda text: (_number(text, -1.0), text))


def _number(text: str, missing: float = np.nan) -> float:
    try:
        return float(text)
    except ValueError:
        return missing
