"""Whether a NIfTI file is a label map, by its voxels: names do not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.nifti.reader import MIN_LABEL, _OpenNifti

MAX_LABELS = 256
"""Most different labels in one plane; an image of HU has more, or values that are no labels."""

MIN_UNIFORM = 0.7
"""Least share of voxels beside the background that equal the next one in their row.

Labels fill areas. Values of an image differ from voxel to voxel, by noise alone.
"""

PLANES = 3
"""Planes with more than one value that decide."""


def is_label_map(path: Path) -> bool | None:
    """Whether the voxels are few whole numbers in uniform areas, as labels are; None if unreadable.

    Reads up to the third plane that has more than one value: the first planes of an image, all of a
    label map with few slices of organs. If every plane has one value, the file is a label map if
    all are labels; an empty one has 0 alone.
    """
    n_decisive, values = 0, set[float]()
    try:
        with _OpenNifti(path) as file:
            for plane in file.planes():
                if n_decisive == PLANES:
                    return True
                lowest, highest = float(plane.min()), float(plane.max())
                values |= {lowest, highest}
                if lowest < MIN_LABEL:
                    return False
                if lowest == highest:
                    continue
                if not _has_labels(plane):
                    return False
                n_decisive += 1
    except SeriesRefused:
        return None
    return n_decisive > 0 or all(v == int(v) and 0 <= v <= MAX_LABELS for v in values)


def _has_labels(plane: npt.NDArray[Any]) -> bool:
    """Whether a plane (row, column) of several values is one of a label map."""
    if not np.array_equal(np.rint(plane), plane):
        return False
    values, counts = np.unique(plane, return_counts=True)
    if len(values) > MAX_LABELS:
        return False
    is_labelled = plane[:, :-1] != values[counts.argmax()]
    n_labelled = int(is_labelled.sum())
    n_uniform = int((is_labelled & (plane[:, :-1] == plane[:, 1:])).sum())
    return len(values) <= 2 or n_uniform >= MIN_UNIFORM * n_labelled
