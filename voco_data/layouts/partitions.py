"""Ways to divide slices: by combinations of the values in which they differ, and by times.

In many scans every slice has times of its own, so only their order counts: a scan ends where a
position comes again, or where a slice lies between those that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from voco_data.layouts.one_scan import SAME_POSITION_MM, SPLIT_POLICY, is_evenly_spaced
from voco_data.layouts.series_slices import FOLDER, IDS, LABELS, TIMES, Indices, SeriesSlices
from voco_data.volumes import ROUNDING_MM

MIN_SHARE = 0.75
"""Least slices of a part by times, as a share of the largest part: phases cover one range."""

MAX_COMBINED = 3
"""Most values in a combination; all of them together are one more."""

MAX_PARTITIONS = 64
"""Most combinations that are tried."""

MAX_BASES = 8
"""Most combinations whose parts are divided further by times."""


@dataclass(frozen=True)
class Partition:
    """Slices divided into parts."""

    codes: Indices
    """(n,) number of the part of each slice, in the order of their first slices."""
    labels: tuple[str, ...]
    """The values that make it, in the order of LABELS."""
    time: str = ""
    """One of TIMES, if its order divides these further."""
    is_told: bool = False
    """Whether it follows from values that scans have, and not from ids only."""

    @property
    def n_parts(self) -> int:
        """Number of parts."""
        return int(self.codes.max()) + 1

    @property
    def rank(self) -> tuple[object, ...]:
        """Of two partitions, the one with the lower rank is tried first."""
        order = [LABELS.index(name) for name in self.labels]
        time = TIMES.index(self.time) + 1 if self.time else 0
        return (self.n_parts, FOLDER in self.labels, time > 0, len(order), order, time)

    def parts(self) -> list[Indices]:
        """The slices of each part."""
        order = np.argsort(self.codes, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.codes[order])) + 1)


def by_labels(slices: SeriesSlices, places: Indices) -> list[Partition]:
    """All partitions by combinations of labels, the coarsest first; equal ones once.

    `places` numbers the positions. Those that leave mostly single slices are left out.
    """
    found: dict[bytes, Partition] = {}
    single: dict[str, Indices] = {}
    for names in _combinations(slices):
        missing = [name for name in names if len(names) > 1 and name not in single]
        if missing:
            continue
        codes = _numbered([slices.labels[name].codes for name in names])
        if codes.max(initial=0) == 0 or not _is_stacked(codes, places):
            continue
        is_told = all(name not in IDS for name in names)
        if len(names) == 1:
            single[names[0]] = codes
        same = found.get(codes.tobytes())
        if same is None:
            if len(found) < MAX_PARTITIONS:
                found[codes.tobytes()] = Partition(codes, names, is_told=is_told)
        elif is_told and not same.is_told:
            found[codes.tobytes()] = Partition(codes, same.labels, is_told=True)
    return sorted(found.values(), key=lambda partition: partition.rank)


def _combinations(slices: SeriesSlices) -> Iterator[tuple[str, ...]]:
    """Combinations of the labels in which slices differ, the smallest first."""
    varying = [name for name in LABELS if np.ptp(slices.labels[name].codes) > 0]
    for count in range(1, min(MAX_COMBINED, len(varying)) + 1):
        yield from combinations(varying, count)
    if len(varying) > MAX_COMBINED:
        yield tuple(varying)


def _numbered(labels: Sequence[Indices]) -> Indices:
    """One number for each combination of codes, in the order of their first slices."""
    codes = labels[0]
    for other in labels[1:]:
        codes = codes * (int(other.max()) + 1) + other
        codes = np.unique(codes, return_inverse=True)[1]
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _is_stacked(codes: Indices, places: Indices) -> bool:
    """Whether at least half of the slices are in parts of several positions."""
    part, n_places = np.unique(np.unique(np.stack([codes, places]), axis=1)[0], return_counts=True)
    stacked = part[n_places > 1]
    return bool(2 * np.isin(codes, stacked).sum() >= len(codes))


def by_times(
    slices: SeriesSlices, depths: np.ndarray, bases: Sequence[Partition]
) -> Iterator[Partition]:
    """Partitions by the order of times: of all slices, and of the parts of `bases`."""
    whole = Partition(np.zeros(len(slices), np.int64), ())
    for base in [whole, *bases[:MAX_BASES]]:
        parts = base.parts()
        for time in TIMES:
            for returns in (False, True):
                chunks: list[Indices] = []
                for part in parts:
                    chunks += in_order_of(slices, depths, part, time, returns=returns) or [part]
                if len(chunks) > len(parts):
                    codes = np.empty(len(slices), np.int64)
                    for number, chunk in enumerate(chunks):
                        codes[chunk] = number
                    yield Partition(_numbered([codes]), base.labels, time, is_told=True)


def in_order_of(
    slices: SeriesSlices, depths: np.ndarray, part: Indices, time: str, *, returns: bool
) -> list[Indices]:
    """Slices divided into scans that were made one after the other; empty if times do not tell.

    A scan ends before the first slice at a position that it has already; with `returns`, also
    before one between its slices or off their even distances. The parts must be evenly spaced and
    have about as many slices: otherwise times do not tell scans apart.
    """
    codes = slices.times[time].codes[part]
    values = slices.times[time].values
    if np.ptp(codes) == 0 or (values[0] == "" and codes.min() == 0):
        return []
    order = np.lexsort((depths[part], codes))
    ordered = part[order]
    steps = np.diff(depths[ordered])
    if (steps > 0).all() or (steps < 0).all():  # a scan from end to end
        return []
    borders = np.flatnonzero(np.diff(codes[order])) + 1
    chunks: list[list[int]] = []
    scan = _Scan()
    for block in np.split(ordered, borders):
        if not chunks or scan.ends_before(depths[block], returns=returns):
            chunks.append([])
            scan = _Scan()
        chunks[-1] += block.tolist()
        scan.add(depths[block])
    sizes = [len(chunk) for chunk in chunks]
    if len(chunks) < 2 or min(sizes) < MIN_SHARE * max(sizes):
        return []
    arrays = [np.array(chunk, np.int64) for chunk in chunks]
    return arrays if all(_is_stack(depths[chunk]) for chunk in arrays) else []


class _Scan:
    """The positions of one scan so far."""

    def __init__(self) -> None:
        self._taken: set[float] = set()
        self._low = np.inf
        self._high = -np.inf
        self._step = 0.0

    def add(self, depths: np.ndarray) -> None:
        """Add the slices of one time."""
        self._taken.update(np.round(depths / SAME_POSITION_MM).tolist())
        self._low = min(self._low, float(depths.min()))
        self._high = max(self._high, float(depths.max()))
        if len(self._taken) > 1:
            self._step = (self._high - self._low) / (len(self._taken) - 1)

    def ends_before(self, depths: np.ndarray, *, returns: bool) -> bool:
        """Whether the slices of the next time belong to another scan."""
        if not self._taken.isdisjoint(np.round(depths / SAME_POSITION_MM).tolist()):
            return True
        if not returns:
            return False
        low, high = float(depths.min()), float(depths.max())
        if low < self._high and high > self._low:
            return True
        gap = low - self._high if low > self._high else self._low - high
        if not self._step:
            return False
        allowed = max(2 * SPLIT_POLICY.tolerance * self._step, ROUNDING_MM)
        return abs(gap - max(round(gap / self._step), 1) * self._step) > allowed


def _is_stack(depths: np.ndarray) -> bool:
    """Whether depths are distinct, and evenly spaced in their order."""
    values = np.sort(depths)
    return bool((np.diff(values) >= SAME_POSITION_MM).all()) and is_evenly_spaced(values)
