"""Label maps from files: NIfTI, NRRD and DICOM SEG, each with its own geometry.

A file of a few megabytes can claim, or expand to, many gigabytes. So every reader takes the grid of
the series, and checks by the header that the mask lies within it before it reads a voxel. Then it
reads as many voxels as that, and refuses a file with more.

A new format needs a reader here, a kind in `voco_data.cohort.MaskKind`, and the names by which
`voco_data.layouts.mask_files` finds its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.cohort import PLACED_MASK, MaskFile
from voco_data.errors import SeriesRefused
from voco_data.masks.dicom_seg import read_seg
from voco_data.masks.nrrd import read_nrrd
from voco_data.masks.organ_files import organ_of_file
from voco_data.masks.organs import NUMBER_PREFIX, VOCABULARIES, WHOLE_LABEL_SETS
from voco_data.masks.placement import (
    LabelCut,
    Labels,
    Mask,
    MaskMisplacedError,
    PlacedMask,
    fit_grid,
    place_mask,
)
from voco_data.nifti import OpenNifti
from voco_data.reasons import Reason
from voco_data.volumes import Geometry

MAX_LABEL = 65_535


def read_masks(
    base: Path, files: Sequence[MaskFile], geometry: Geometry
) -> tuple[PlacedMask | None, tuple[str, ...]]:
    """The masks of a series on its grid, joined, and flags.

    Where masks overlap, the earlier one has priority. A mask that cannot be read or placed is left
    out, and its series is still stored. Flags: `mask`, `mask_misplaced`, `mask_unreadable`.
    """
    placed: PlacedMask | None = None
    flags: set[str] = set()
    for file in files:
        try:
            mask = place_mask(_read_mask(base / file.path, file, geometry), geometry)
        except MaskMisplacedError:
            flags.add("mask_misplaced")
        except Exception:  # noqa: BLE001  an error of a mask must not exclude its series
            flags.add("mask_unreadable")
        else:
            flags.add(PLACED_MASK)
            placed = mask if placed is None else _join_masks(placed, mask)
    return placed, tuple(sorted(flags))


def _read_mask(path: Path, file: MaskFile, series: Geometry) -> Mask:
    """Read one label map of a series. Raises SeriesRefused or MaskMisplacedError."""
    if file.kind == "dicom_seg":
        return read_seg(path, series)
    read = _read_nifti if file.kind == "nifti" else _read_nrrd
    labels, geometry = read(path, series)
    names, label_set = _organs(labels, file)
    return Mask(labels, geometry, names, label_set=label_set)


def _read_nifti(path: Path, series: Geometry) -> tuple[Labels, Geometry]:
    with OpenNifti(path) as file:
        fit_grid(file.geometry, series)
        labels = np.empty(file.geometry.shape, np.uint16)
        for index, plane in enumerate(file.planes()):
            labels[index] = _labels(plane)
        return labels, file.geometry


def _read_nrrd(path: Path, series: Geometry) -> tuple[Labels, Geometry]:
    values, geometry = read_nrrd(path, series)
    return _labels(values), geometry


def _organs(labels: Labels, file: MaskFile) -> tuple[dict[int, str], frozenset[str]]:
    """The organ of each label, and the organs that the file marks wherever they are.

    By its data set, or by the name of the file, which says what its only label is. An empty file
    says that its organ is not there.
    """
    if file.labels != "file_name":
        return VOCABULARIES[file.labels], WHOLE_LABEL_SETS.get(file.labels, frozenset())
    numbers, organ = np.unique(labels[labels > 0]).tolist(), organ_of_file(file.path)
    if len(numbers) > 1:
        return {}, frozenset()
    return dict.fromkeys(numbers, organ), frozenset({organ})


def _labels(values: npt.NDArray[np.generic]) -> Labels:
    """Whole numbers from 0, as label maps have. Raises SeriesRefused(MASK)."""
    rounded = np.rint(values)
    if not np.array_equal(rounded, values) or values.min() < 0 or values.max() > MAX_LABEL:
        raise SeriesRefused(Reason.MASK, "values that are not labels")
    return np.asarray(rounded, np.uint16)


def _join_masks(first: PlacedMask, second: PlacedMask) -> PlacedMask:
    """Both in one map. A label of `second` gets the number of its name in `first`, or a new one.

    An organ of `second` that `first` covers wholly is in no label set: its place is not known.
    """
    labels, names, cuts = first.labels.copy(), dict(first.names), set(first.cuts)
    label_set = first.label_set | second.label_set
    last_number = int(max(labels.max(), *names, 0))
    for number in np.unique(second.labels[second.labels > 0]).tolist():
        name = second.names.get(number, f"{NUMBER_PREFIX}{number}")
        same_name = [n for n, other in names.items() if other == name]
        target = same_name[0] if same_name else (last_number := last_number + 1)
        names[target] = name
        is_free = (second.labels == number) & (labels == 0)
        labels[is_free] = target
        if not is_free.any() and not (labels == target).any():
            label_set -= {name}
        cuts |= {
            LabelCut(target, cut.axis, cut.upper) for cut in second.cuts if cut.label == number
        }
    return PlacedMask(labels, names, frozenset(cuts), label_set)
