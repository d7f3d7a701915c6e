"""Divide the slices of a family into scans.

A part of the slices is one scan if no two different slices share a position, and nothing divides it
into interleaved stacks (`one_scan.py`). If it names several patients or studies, or its geometry is
rounded in several ways, all its slices must also lie on one line at even distances.

Patients, studies and roundings are compared by all their slices, also where a part has only some of
them. An ImageType of every third slice may leave three slices of each patient in a part: too few to
show that the patients are several scans. So a part never mixes ids whose slices are one scan each,
but not together. Other values have no such weight, because they also vary inside one scan.

Of all ways to divide the slices by the values in which they differ (`partitions.py`), the one with
the fewest parts is taken whose parts are all one scan. The undivided slices are the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from voco_data.layouts.copied_folders import first_of_copies, merge_copied_folders
from voco_data.layouts.one_scan import (
    MIN_STACK_SLICES,
    SAME_POSITION_MM,
    are_interleaved_scans,
    are_one_scan,
    begin_anew,
    has_even_steps,
    run_through,
)
from voco_data.layouts.partitions import Partition, by_labels, by_times, in_order_of
from voco_data.layouts.series_slices import FOLDER, IDS, TIMES, Indices, SeriesSlices
from voco_data.layouts.table import common_folder, path_text

COUNTED = ("acquisition", "series_number")
"""Values that count the parts of a scan in their order: parts that follow each other are joined."""

MAX_DEPTH = 2
"""Most times that parts are divided again."""

MAX_WORK = 100_000
"""Most comparisons for one family. Hostile headers may demand any number; parts that are not judged
any more count as several scans."""


class Scan(NamedTuple):
    """Slices of one scan, or those that cannot be told apart."""

    slices: Indices
    """Their indices."""
    value: str
    """What tells them apart from the other scans, besides ids and geometry; may be empty."""


def find_scans(slices: SeriesSlices, base: Path, *, by_folder: bool) -> list[Scan]:
    """Divide slices into scans; a list of one if they are one scan, or cannot be told apart.

    `base` is the folder of the archive. `by_folder` says that the folder stands for the series UID,
    so that folders are several scans unless their positions show that they are one.
    """
    if not np.isfinite(slices.positions).all():
        return [Scan(np.arange(len(slices)), "")]
    return _Division(slices, base, by_folder=by_folder).scans()


class _Division:
    """The slices without copies, and what is known about their parts."""

    def __init__(
        self,
        slices: SeriesSlices,
        base: Path,
        *,
        by_folder: bool,
        level: int = 0,
        work_left: int = MAX_WORK,
    ) -> None:
        everything = np.arange(len(slices))
        depths = slices.positions @ np.asarray(slices.normal(everything))
        places = _places(depths)
        self._first = everything
        if len(np.unique(places)) < len(places):
            slices = merge_copied_folders(slices, places, base)
            self._first = first_of_copies(slices, places)
        self._kept = np.unique(self._first)
        folders = slices.labels[FOLDER].values
        # Names of folders do not depend on the folder that is SOURCE.
        self._n_common = len(common_folder(min(folders) + b"/", max(folders) + b"/"))
        self._slices = slices.take(self._kept)
        self._depths = depths[self._kept]
        self._places = places[self._kept]
        self._base = base
        self._by_folder = by_folder
        self._level = level
        self._work_left = work_left
        self._ids = (*IDS, FOLDER) if by_folder else IDS
        self._judged: dict[bytes, bool] = {}
        self._judged_alone: dict[bytes, bool] = {}
        self._partitions = by_labels(self._slices, self._places)

    def scans(self) -> list[Scan]:
        whole = np.arange(len(self._kept))
        if self._is_scan(whole):
            numbered = self._coarsest_by_numbers(whole)
            scans = [Scan(whole, "")] if numbered is None else self._named(numbered)
            return self._with_copies(scans)
        found = self._coarsest()
        if found is not None:
            return self._with_copies(self._joined_again(self._named(found)))
        found = self._best()
        if found is None:
            return self._with_copies([Scan(whole, "")])
        scans = []
        for scan in self._joined_again(self._named(found)):
            is_last = self._level >= MAX_DEPTH or self._work_left < 0
            if is_last or self._is_scan(scan.slices):
                scans.append(scan)
                continue
            division = _Division(
                self._slices.take(scan.slices),
                self._base,
                by_folder=self._by_folder,
                level=self._level + 1,
                work_left=self._work_left,
            )
            scans += [
                Scan(scan.slices[part.slices], f"{scan.value} {part.value}".strip())
                for part in division.scans()
            ]
            self._work_left = division._work_left
        return self._with_copies(scans)

    def _with_copies(self, scans: list[Scan]) -> list[Scan]:
        """The scans as indices of all slices, each copy with the slice that it copies."""
        number = np.empty(len(self._first), np.int64)
        for index, scan in enumerate(scans):
            number[self._kept[scan.slices]] = index
        number = number[self._first]
        return [Scan(np.flatnonzero(number == k), scan.value) for k, scan in enumerate(scans)]

    def _coarsest(self) -> Partition | None:
        """The partition with the fewest parts that are all one scan, at even distances."""
        least = max(2, int(np.bincount(self._places).max()))
        found = next((p for p in self._partitions if self._is_valid(p)), None)
        if found is not None and found.n_parts <= least and FOLDER not in found.labels:
            return found
        timed = sorted(by_times(self._slices, self._depths, self._partitions), key=lambda p: p.rank)
        for partition in timed:
            if found is not None and found.rank <= partition.rank:
                break
            if self._is_valid(partition):
                return partition
        return found

    def _coarsest_by_numbers(self, whole: Indices) -> Partition | None:
        """The partition of what may be one scan into parts whose numbers begin anew; None if none.

        Scans that follow each other, or lie apart, do not show in their positions. Numbers that
        begin anew in each acquisition are those of one scan.
        """
        if len(np.unique(self._slices.numbers)) == len(whole):
            return None
        for partition in self._partitions:
            if set(partition.labels) <= {"acquisition", *TIMES}:
                continue
            parts = partition.parts()
            if self._are_numbered(parts) and self._is_valid(partition):
                return partition
        return None

    def _are_numbered(self, parts: Sequence[Indices]) -> bool:
        """Whether the numbers of slices run through each part, and begin anew in the next."""
        numbers = [self._slices.numbers[part] for part in parts]
        return begin_anew(numbers) and all(
            len(part) >= MIN_STACK_SLICES and run_through(values, self._depths[part])
            for part, values in zip(parts, numbers, strict=True)
        )

    def _best(self) -> Partition | None:
        """The partition that makes most slices part of a scan, else that by ids; None if neither.

        Folders are tried last unless they stand for the series UID.
        """
        best, most = None, 0
        for partition in self._partitions:
            count = sum(len(part) for part in partition.parts() if self._is_scan(part))
            if count > most:
                best, most = partition, count
        if best is not None:
            return best
        by_ids = [p for p in self._partitions if set(p.labels) <= set(self._ids)]
        by_ids = [p for p in by_ids if _median_size(p) >= MIN_STACK_SLICES]
        return by_ids[-1] if by_ids else None

    def _is_valid(self, partition: Partition) -> bool:
        """Whether all parts are one scan, at even distances if they have several slices."""
        needs_stacks = FOLDER in partition.labels or partition.time != ""
        return all(
            len(part) >= (MIN_STACK_SLICES if needs_stacks else 1)
            and self._is_scan(part)
            and self._is_even(part)
            for part in partition.parts()
        )

    def _is_scan(self, part: Indices) -> bool:
        key = part.tobytes()
        if key not in self._judged:
            is_scan = self._is_scan_alone(part) and not self._mixes_scans_of_ids(part)
            if self._work_left < 0:
                return False
            self._judged[key] = is_scan
        return self._judged[key]

    def _is_scan_alone(self, part: Indices) -> bool:
        """Whether slices are one scan, if the others are not looked at."""
        key = part.tobytes()
        if key not in self._judged_alone:
            self._work_left -= 1 + len(self._partitions) + len(part) // 50
            if self._work_left < 0:
                return False
            self._judged_alone[key] = self._find_whether_scan(part)
        return self._judged_alone[key]

    def _mixes_scans_of_ids(self, part: Indices) -> bool:
        """Whether a part has some slices of several ids that are one scan each, but not together.

        Ids combined with other values count where the part has one of these values.
        """
        for partition in self._partitions:
            others = [name for name in partition.labels if name not in self._ids]
            if len(others) == len(partition.labels):
                continue
            if any(np.ptp(self._slices.labels[name].codes[part]) for name in others):
                continue
            counts = np.bincount(partition.codes[part], minlength=partition.n_parts)
            sizes = np.bincount(partition.codes)
            stacks = np.flatnonzero((counts > 0) & (sizes >= MIN_STACK_SLICES))
            if len(stacks) < 2 or (counts == sizes)[stacks].all():
                continue
            parts = partition.parts()
            scans = [parts[number] for number in stacks]
            if all(map(self._is_even_scan, scans)) and self._are_several(scans):
                return True
        return False

    def _is_even_scan(self, whole: Indices) -> bool:
        return self._is_scan_alone(whole) and has_even_steps(np.sort(self._depths[whole]))

    def _are_several(self, scans: Sequence[Indices]) -> bool:
        """Whether stacks that are one scan each are not one scan together."""
        joined = np.sort(np.concatenate(scans))
        self._work_left -= 1 + len(joined) // 50
        if len(np.unique(self._places[joined])) < len(joined):
            return True
        positions = [self._slices.positions[scan] for scan in scans]
        if not are_one_scan(positions, self._slices.normal(joined)):
            return True
        if run_through(self._slices.numbers[joined], self._depths[joined]):
            return False
        return are_interleaved_scans(
            [np.sort(self._depths[scan]) for scan in scans],
            self._slices.thickness_of(joined),
            are_numbered=self._are_numbered(scans),
            if_unknown=False,
        )

    def _find_whether_scan(self, part: Indices) -> bool:
        if len(np.unique(self._places[part])) < len(part):
            return False
        of_ids = self._parts_by_ids(part)
        if len(of_ids) > 1:
            positions = [self._slices.positions[other] for other in of_ids]
            if not are_one_scan(positions, self._slices.normal(part)):
                return False
        return not self._is_interleaved(part)

    def _parts_by_ids(self, part: Indices) -> list[Indices]:
        """A part divided by patient, study, rounding of the geometry, and folder without UID."""
        codes = [self._slices.labels[name].codes[part] for name in self._ids]
        if not any(np.ptp(values) for values in codes):
            return [part]
        inverse = np.unique(np.stack(codes), axis=1, return_inverse=True)[1].reshape(-1)
        order = np.argsort(inverse, kind="stable")
        return np.split(part[order], np.flatnonzero(np.diff(inverse[order])) + 1)

    def _is_interleaved(self, part: Indices) -> bool:
        """Whether a value or the order of times divides a part into interleaved scans."""
        if len(part) < 2 * MIN_STACK_SLICES:
            return False
        if run_through(self._slices.numbers[part], self._depths[part]):
            return False
        thickness = self._slices.thickness_of(part)
        divisions = [
            ([part[codes == code] for code in np.unique(codes)], partition.is_told)
            for partition in self._partitions
            if np.ptp(codes := partition.codes[part])
        ]
        divisions += [
            (chunks, True)
            for time in TIMES
            if (chunks := in_order_of(self._slices, self._depths, part, time, returns=True))
        ]
        return any(
            are_interleaved_scans(
                [np.sort(self._depths[chunk]) for chunk in chunks],
                thickness,
                are_numbered=self._are_numbered(chunks),
                if_unknown=is_told,
            )
            for chunks, is_told in divisions
        )

    def _is_even(self, part: Indices) -> bool:
        if len(part) < MIN_STACK_SLICES:
            return True
        if len(self._parts_by_ids(part)) > 1:  # fragments of ids may have other distances
            return True
        return has_even_steps(np.sort(self._depths[part]))

    def _named(self, partition: Partition) -> list[Scan]:
        """The parts of a partition, with the values of each."""
        scans = []
        for part in partition.parts():
            values = []
            for name in partition.labels:
                label = self._slices.labels[name]
                value = label.values[label.codes[part[0]]]
                if name == FOLDER and not self._by_folder:
                    folder = value[self._n_common :].removeprefix(b"/")
                    values.append(f"folder={path_text(folder)}")
                elif name not in self._ids:
                    values.append(f"{name}={value}")
            if partition.time:
                time = self._slices.times[partition.time]
                values.append(f"{partition.time}={time.values[time.codes[part].min()]}")
            scans.append(Scan(part, " ".join(values)))
        return scans

    def _joined_again(self, scans: list[Scan]) -> list[Scan]:
        """Scans that acquisition or series numbers divide, where several in a row are one scan."""
        for name in COUNTED:
            codes = self._slices.labels[name].codes
            joined: list[Scan] = []
            for scan in sorted(scans, key=lambda scan: self._place(scan, name)):
                last = joined[-1] if joined else None
                if last is not None and self._continues(last, scan, codes):
                    both = np.sort(np.concatenate([last.slices, scan.slices]))
                    joined[-1] = Scan(both, last.value)
                else:
                    joined.append(scan)
            scans = joined
        return scans

    def _continues(self, last: Scan, scan: Scan, codes: Indices) -> bool:
        """Whether a scan is the next part of another one, which has other numbers."""
        if np.isin(codes[scan.slices], codes[last.slices]).any():
            return False
        if self._uncounted(last) != self._uncounted(scan):
            return False
        both = np.sort(np.concatenate([last.slices, scan.slices]))
        return self._is_scan(both) and self._is_even(both)

    def _place(self, scan: Scan, name: str) -> tuple[object, ...]:
        """The place of a scan among the parts that numbers count."""
        label = self._slices.labels[name]
        numbers = [_natural(label.values[code]) for code in np.unique(label.codes[scan.slices])]
        return (self._uncounted(scan), min(numbers), int(scan.slices[0]))

    def _uncounted(self, scan: Scan) -> list[tuple[str, ...]]:
        """The values of a scan that do not count its parts."""
        return [
            tuple(str(label.values[code]) for code in np.unique(label.codes[scan.slices]))
            for name, label in self._slices.labels.items()
            if name not in (*COUNTED, *TIMES, FOLDER)
        ]


def _places(depths: np.ndarray) -> Indices:
    """A number for each position along the normal; slices with one number share it."""
    order = np.argsort(depths, kind="stable")
    places = np.empty(len(depths), np.int64)
    places[order] = np.concatenate([[0], np.cumsum(np.diff(depths[order]) >= SAME_POSITION_MM)])
    return places


def _median_size(partition: Partition) -> float:
    return float(np.median([len(part) for part in partition.parts()]))


def _natural(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return np.inf, text
