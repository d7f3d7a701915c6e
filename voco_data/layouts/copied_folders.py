"""Copies of slices in one folder or in several, which the reader of a series drops.

Two slices with the same position, ids, traits and times are copies if they lie in one folder:
nothing could tell them apart, and the reader refuses them if their pixels differ. In two folders
they may be two scans of an archive that gives all scans the same ids. So the pixels of a few of
them are compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voco_data.dicom import pixel_digest
from voco_data.layouts.series_slices import FOLDER, Indices, SeriesSlices

SAMPLES = 3
"""Slices of two folders whose pixels are compared."""

MAX_FOLDERS = 200
"""Most folders that are compared; more count as different."""


def merge_copied_folders(slices: SeriesSlices, places: Indices, base: Path) -> SeriesSlices:
    """Give folders with copies of the same slices one label. Paths are relative to `base`."""
    folders = slices.labels[FOLDER].codes
    numbers = np.unique(folders).tolist()
    if not 1 < len(numbers) <= MAX_FOLDERS:
        return slices
    same = _same_headers(slices, places)
    first: dict[int, dict[int, int]] = {folder: {} for folder in numbers}
    for index, (folder, key) in enumerate(zip(folders.tolist(), same.tolist(), strict=True)):
        first[folder].setdefault(key, index)
    counts = np.bincount([key for keys in first.values() for key in keys])
    digests: dict[int, tuple[str, str]] = {}

    def digest(index: int) -> tuple[str, str]:
        if index not in digests:
            digests[index] = pixel_digest(base / os.fsdecode(slices.paths[index]))
        return digests[index]

    merged: dict[int, int] = {}
    for folder in numbers:
        merged[folder] = folder
        for other in numbers:
            if other >= folder:
                break
            common = sorted(first[folder].keys() & first[other].keys(), key=lambda k: -counts[k])
            pairs = [(first[folder][key], first[other][key]) for key in _spread(common)]
            if pairs and all(_may_be_equal(digest(a), digest(b)) for a, b in pairs):
                merged[folder] = merged[other]
                break
    return slices.with_folders(np.array([merged[folder] for folder in folders.tolist()]))


def first_of_copies(slices: SeriesSlices, places: Indices) -> Indices:
    """(n,) index of the first copy of each slice; its own, if it is the first."""
    keys = np.stack([_same_headers(slices, places), slices.labels[FOLDER].codes])
    _, first, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.reshape(-1)], np.int64)


def _same_headers(slices: SeriesSlices, places: Indices) -> Indices:
    """One number for all slices with the same position, ids, traits and times."""
    offsets = np.unique(np.round(slices.positions, 2), axis=0, return_inverse=True)[1]
    columns = [
        places,
        offsets.reshape(-1),
        slices.rows["ids"],
        slices.rows["traits"],
        slices.labels["geometry"].codes,
        *(time.codes for time in slices.times.values()),
    ]
    inverse = np.unique(np.stack(columns), axis=1, return_inverse=True)[1]
    return np.asarray(inverse.reshape(-1), np.int64)


def _spread(keys: Sequence[int]) -> list[int]:
    """The first, the middle and the last of them."""
    return [keys[k] for k in sorted({0, len(keys) // 2, len(keys) - 1})][:SAMPLES] if keys else []


def _may_be_equal(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether digests are equal, or cannot be compared: the reader compares the pixels then."""
    return one[0] != other[0] or one[1] == other[1]
