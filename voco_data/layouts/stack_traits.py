"""Split a stack of slices by the header values in which its scans differ.

Traits are values of StackKey, which all slices of a scan share. Times are tried where traits fail:
in many scans every slice has times of its own, so only their order counts. At last the folder is
tried, for archives that give many scans the same UIDs.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from voco_data.dicom import TRAIT_NAMES, SliceTimes
from voco_data.layouts.one_scan import is_evenly_spaced
from voco_data.layouts.table import path_text

TIMES = SliceTimes._fields
"""Columns of `slices` with times, in the order in which they are tried."""

TRAITS = tuple(name for name in TRAIT_NAMES if name not in TIMES)
"""Columns of `traits`, in the order in which they are tried."""

MIN_SHARE = 0.75
"""Least slices of a part by times, as a share of the largest part: phases cover one range."""

CONTIGUOUS = (0.9, 1.5)
"""Thickness of slices without gaps, as a multiple of their distance; below 2, two steps apart."""

_COMPARED_BYTES = 2**22
"""Bytes at the end of two files that are compared."""

AddPart = Callable[[int, str], int]
"""Adds a series: takes that which is split, and what tells the part apart. Returns its number."""


class TraitSplitter:
    """Splits series; `add_part` adds the parts."""

    def __init__(self, sql: sqlite3.Connection, base: Path, add_part: AddPart) -> None:
        self._sql = sql
        self._base = base
        self._add_part = add_part

    def split_all(self) -> None:
        """Split all series until no trait, time or folder tells their slices apart."""
        has_split = True
        while has_split:  # an earlier trait may split the parts that a later one made
            has_split = False
            for trait in TRAITS:
                colliding = self._series_with_collisions(trait)
                for series in sorted({*colliding, *self._interleaved_series(trait)}):
                    has_split |= self._split(series, trait)
            if not has_split:
                for series in self._series_with_shared_positions():
                    has_split |= any(self._split_by_time(series, time) for time in TIMES)
            if not has_split:
                for series in self._series_with_shared_positions():
                    has_split |= self._split_by_folder(series)

    def _series_with_collisions(self, trait: str) -> list[int]:
        """Series in which slices at one position differ in a trait."""
        rows = self._sql.execute(
            f"SELECT DISTINCT series FROM slices JOIN traits ON traits.id = slices.traits"
            f" GROUP BY series, depth_mm HAVING COUNT(*) > 1 AND COUNT(DISTINCT {trait}) > 1"
        )
        return [series for (series,) in rows]

    def _series_with_shared_positions(self) -> list[int]:
        rows = self._sql.execute(
            "SELECT DISTINCT series FROM slices WHERE depth_mm IS NOT NULL"
            " GROUP BY series, depth_mm HAVING COUNT(*) > 1"
        )
        return sorted(series for (series,) in rows)

    def _interleaved_series(self, trait: str) -> list[int]:
        """Series that a trait splits into evenly spaced, interleaved parts."""
        rows = self._sql.execute(
            "SELECT series FROM slices JOIN traits ON traits.id = slices.traits"
            f" GROUP BY series HAVING COUNT(DISTINCT {trait}) > 1"
        ).fetchall()
        return [
            series
            for (series,) in rows
            if _are_interleaved(self._even_parts(series, trait))
            and not (trait == "acquisition" and self._is_shuttle(series))
        ]

    def _even_parts(self, series: int, trait: str) -> list[tuple[float, float]]:
        """Lowest and highest depth (mm) of every part that is evenly spaced, sorted."""
        rows = self._sql.execute(
            f"SELECT DISTINCT {trait}, depth_mm FROM slices"
            " JOIN traits ON traits.id = slices.traits"
            f" WHERE series = ? AND depth_mm IS NOT NULL ORDER BY {trait}, depth_mm",
            (series,),
        )
        parts = (np.array([depth for _, depth in part]) for _, part in groupby(rows, itemgetter(0)))
        return sorted((float(part[0]), float(part[-1])) for part in parts if is_evenly_spaced(part))

    def _is_shuttle(self, series: int) -> bool:
        """Whether acquisitions alternate within one scan: apart, their slices would leave gaps.

        All slices together are evenly spaced, and as thick as their distance. A phase alone would
        have gaps as wide as its slices.
        """
        rows = self._sql.execute(
            "SELECT depth_mm, thickness FROM slices JOIN traits ON traits.id = slices.traits"
            " WHERE series = ? AND depth_mm IS NOT NULL ORDER BY depth_mm",
            (series,),
        ).fetchall()
        depths = [depth for depth, _ in rows]
        thickness = {_number(text) for _, text in rows}
        if len(thickness) != 1 or not _is_stack(depths):
            return False
        step = float(np.median(np.diff(depths)))
        # The parts are interleaved, so the slices of each are at least two steps apart.
        low, high = CONTIGUOUS
        return low * step <= thickness.pop() <= high * step

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
        for value, *_ in parts:
            part = self._add_part(series, f"{trait}={value}")
            self._sql.execute("INSERT INTO parts VALUES (?, ?)", (value, part))
        self._sql.execute(
            "UPDATE slices SET series = (SELECT part FROM parts JOIN traits"
            f" ON parts.value = traits.{trait} WHERE traits.id = slices.traits) WHERE series = ?",
            (series,),
        )
        self._sql.execute("DELETE FROM parts")
        self._sql.execute("DELETE FROM series WHERE id = ?", (series,))
        return True

    def _split_by_time(self, series: int, time: str) -> bool:
        """Split a series into scans that were made one after the other.

        In the order of time, a scan ends before the first slice at a position that it has already.
        Returns False unless every part is evenly spaced, without two slices at one position, and
        the parts have about as many slices: otherwise times do not tell scans apart.
        """
        rows = self._sql.execute(
            f"SELECT {time}, depth_mm, file FROM slices WHERE series = ? ORDER BY {time}, file",
            (series,),
        ).fetchall()
        if not all(value and depth is not None for value, depth, _ in rows):
            return False
        parts: list[list[tuple[str, float, int]]] = []
        for _, block_rows in groupby(rows, itemgetter(0)):
            block = list(block_rows)
            taken = {depth for _, depth, _ in parts[-1]} if parts else set()
            if not parts or any(depth in taken for _, depth, _ in block):
                parts.append([])
            parts[-1] += block
        sizes = [len(part) for part in parts]
        if len(parts) < 2 or min(sizes) < MIN_SHARE * max(sizes):
            return False
        if not all(_is_stack(depth for _, depth, _ in part) for part in parts):
            return False
        self._replace(
            series,
            [(f"{time}={part[0][0]}", [file for *_, file in part]) for part in parts],
        )
        return True

    def _split_by_folder(self, series: int) -> bool:
        """Split a series whose scans lie in folders of their own.

        Returns False unless every folder has an evenly spaced stack, and files at one position
        differ: copies of one scan stay together.
        """
        by_folder: dict[bytes, list[tuple[float, int, bytes]]] = {}
        for depth, file, path in self._sql.execute(
            "SELECT depth_mm, file, path FROM slices JOIN files ON files.id = slices.file"
            " WHERE series = ? AND depth_mm IS NOT NULL ORDER BY path",
            (series,),
        ):
            by_folder.setdefault(path.rpartition(b"/")[0], []).append((depth, file, path))
        if len(by_folder) < 2 or not all(
            _is_stack(depth for depth, *_ in rows) for rows in by_folder.values()
        ):
            return False
        first_at: dict[float, bytes] = {}
        for rows in by_folder.values():
            collisions = [(first_at[row[0]], row[2]) for row in rows if row[0] in first_at]
            if collisions and self._are_copies(collisions[len(collisions) // 2]):
                return False
            first_at |= {depth: path for depth, _, path in rows}
        self._replace(
            series,
            [
                (f"folder={path_text(folder)}", [file for _, file, _ in rows])
                for folder, rows in sorted(by_folder.items())
            ],
        )
        return True

    def _are_copies(self, paths: Sequence[bytes]) -> bool:
        """Whether two files end in the same bytes, the pixels; True if one cannot be read."""
        ends = []
        try:
            for path in paths:
                with (self._base / os.fsdecode(path)).open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    file.seek(size - min(size // 2, _COMPARED_BYTES))
                    ends.append(file.read(_COMPARED_BYTES))
        except OSError:  # the worker reads it again, and gives the reason
            return True
        return ends[0] == ends[1]

    def _replace(self, series: int, parts: Sequence[tuple[str, Sequence[int]]]) -> None:
        """Replace a series by parts, each with what tells it apart, and its files."""
        for value, files in parts:
            part = self._add_part(series, value)
            self._sql.executemany(
                "UPDATE slices SET series = ? WHERE file = ?", ((part, file) for file in files)
            )
        self._sql.execute("DELETE FROM series WHERE id = ?", (series,))


def _is_stack(depths: Iterable[float]) -> bool:
    """Whether depths are distinct, and evenly spaced in their order."""
    values = np.sort(np.fromiter(depths, np.float64))
    return bool((np.diff(values) > 0).all()) and is_evenly_spaced(values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


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
