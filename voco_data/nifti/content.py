"""What a NIfTI file holds: by its header, and by its first planes. Names do not tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voco_data.errors import SeriesRefused
from voco_data.nifti.label_evidence import MAX_CONSTANT_BYTES, LabelEvidence
from voco_data.nifti.reader import OpenNifti

MAX_PLANES = 3
"""Planes with more than one value that are enough to decide."""


def count_slices(path: Path) -> int:
    """The number of voxels nearest to the patient's z, by the header; 0 if it does not parse."""
    try:
        with OpenNifti(path) as file:
            return file.geometry.nearest_canonical().shape[0]
    except SeriesRefused:
        return 0


def holds_unscaled_bytes(path: Path) -> bool:
    """Whether the header says that all voxels are whole numbers from 0 to 255.

    They are no HU, because air would lie below. Such a file is a label map, or a picture of 8 bits.
    False if the header does not parse.
    """
    try:
        with OpenNifti(path) as file:
            return file.holds_unscaled_bytes
    except SeriesRefused:
        return False


def is_label_map(path: Path) -> bool | None:
    """Whether the voxels are few whole numbers in uniform areas, as labels are; None if unreadable.

    Reads up to the third plane that has more than one value: the first planes of an image, all of a
    label map with few slices of organs. A file of one value is a label map if that is a label; a
    mask of no organ has 0 alone. It is not read beyond MAX_CONSTANT_BYTES.
    """
    evidence, n_planes = LabelEvidence(), 0
    try:
        with OpenNifti(path) as file:
            for plane in file.planes():
                evidence.add(plane, np.rint(plane))
                if not evidence.has_only_labels:
                    return False
                n_planes += bool((plane != plane[0, 0]).any())
                if n_planes == MAX_PLANES or evidence.constant_bytes > MAX_CONSTANT_BYTES:
                    break
    except SeriesRefused:
        return None
    return evidence.looks_like_labels or evidence.is_constant
