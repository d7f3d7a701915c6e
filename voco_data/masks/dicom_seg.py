"""DICOM Segmentation objects: label maps in frames with positions of their own (PS3.3 A.51)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from voco_data.dicom import (
    MAX_FRAMES,
    MAX_PIXELS,
    SEGMENTATION_CLASS,
    UNCOMPRESSED,
    DatasetValues,
    describe_uid,
    read_dataset,
    transfer_syntax,
)
from voco_data.errors import SeriesRefused
from voco_data.limits import check_voxels
from voco_data.masks.organs import match_organ
from voco_data.masks.placement import Mask
from voco_data.reasons import Reason
from voco_data.volumes import Geometry, Triple, unit_vector

STEP_TOLERANCE = 0.05
"""Largest distance of a frame from an even step, as a fraction of the step."""


def read_seg(path: Path) -> Mask:
    """Labels of a binary or fractional SEG: the number of the segment.

    A fractional segment counts where its value is at least half of the maximum. Where segments
    overlap, the lower number has priority. Raises SeriesRefused.
    """
    dataset = read_dataset(path, pixels=True)
    values = DatasetValues(dataset)
    if values.text("SOPClassUID") != SEGMENTATION_CLASS:
        raise SeriesRefused(Reason.NOT_CT, "no DICOM segmentation")
    frames = values.integer("NumberOfFrames", 1)
    rows, columns = values.integer("Rows", 0), values.integer("Columns", 0)
    if not 1 <= frames <= MAX_FRAMES or rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise SeriesRefused(Reason.UNREADABLE, f"{frames} frames of {rows} x {columns}")
    frame_values = DatasetValues.for_frames(dataset, frames)
    positions = np.array([_numbers(frame, "ImagePositionPatient", 3) for frame in frame_values])
    orientation = _numbers(frame_values[0], "ImageOrientationPatient", 6)
    spacing = _numbers(frame_values[0], "PixelSpacing", 2)
    along_row, along_column = orientation[:3], orientation[3:]
    normal = unit_vector(np.cross(along_row, along_column).tolist())
    depths = positions @ normal
    slices, step = _slice_indices(depths, frame_values[0].number("SpacingBetweenSlices", 1.0))
    shape = (int(slices.max()) + 1, rows, columns)
    check_voxels(shape)
    masks = _frame_masks(dataset, (rows, columns), frames)
    labels = np.zeros(shape, np.uint16)
    segments = [_segment_number(frame) for frame in frame_values]
    for frame in np.argsort(segments, kind="stable"):
        plane = labels[slices[frame]]
        plane[masks[frame] & (plane == 0)] = segments[frame]
    names = _organ_names(values)
    marked = {segments[frame] for frame in range(frames) if masks[frame].any()}
    hidden = marked.difference(np.unique(labels).tolist())
    lowest = positions[int(depths.argmin())]
    geometry = Geometry(
        shape=shape,
        spacing_mm=(step, spacing[0], spacing[1]),
        origin_mm=_triple(lowest.tolist()),
        axes=(normal, _triple(along_column), _triple(along_row)),
    )
    return Mask(
        labels,
        geometry,
        names,
        omits_empty_slices=True,
        # A segment without voxels was sought and is not there, unless another segment covers it.
        label_set=frozenset(name for number, name in names.items() if number not in hidden),
    )


def _numbers(values: DatasetValues, keyword: str, count: int) -> tuple[float, ...]:
    numbers = values.numbers(keyword, count)
    if numbers is None:
        raise SeriesRefused(Reason.MISSING_GEOMETRY, f"a frame without {keyword}")
    return numbers


def _triple(values: list[float] | tuple[float, ...]) -> Triple:
    x, y, z = values
    return (x, y, z)


def _segment_number(values: DatasetValues) -> int:
    """ReferencedSegmentNumber of a frame (PS3.3 C.8.20.3.1)."""
    return values.integer("ReferencedSegmentNumber", 1)


def _slice_indices(
    depths: npt.NDArray[np.float64], default_step: float
) -> tuple[npt.NDArray[np.int64], float]:
    """Slice index of each frame, and the distance of slices; empty slices may have no frame."""
    distinct = np.unique(np.round(depths, 3))
    step = float(np.diff(distinct).min()) if len(distinct) > 1 else default_step
    exact = (depths - depths.min()) / step
    index = np.rint(exact).astype(np.int64)
    if np.abs(exact - index).max() > STEP_TOLERANCE * max(1, len(distinct)):
        raise SeriesRefused(Reason.UNEVEN_SPACING, "frames of a segmentation at uneven distances")
    return index, step


def _frame_masks(dataset: Dataset, shape: tuple[int, int], frames: int) -> npt.NDArray[np.bool_]:
    """(frames, rows, columns): whether a frame marks a pixel."""
    syntax, values = transfer_syntax(dataset), DatasetValues(dataset)
    bits, value = values.integer("BitsAllocated", 1), dataset.get("PixelData")
    if syntax not in UNCOMPRESSED or bits not in (1, 8):
        raise SeriesRefused(
            Reason.UNSUPPORTED_SYNTAX, f"a segmentation in {describe_uid(syntax)}, {bits} bits"
        )
    count = frames * shape[0] * shape[1]
    if not isinstance(value, bytes) or len(value) * 8 < count * bits:
        raise SeriesRefused(Reason.UNREADABLE, "a segmentation with too few pixels")
    if bits == 1:  # packed across frames, least significant bit first (PS3.5 8.1.1)
        is_marked = np.unpackbits(np.frombuffer(value, np.uint8), count=count, bitorder="little")
        return is_marked.astype(bool).reshape(frames, *shape)
    half = values.integer("MaximumFractionalValue", 1) / 2
    return (np.frombuffer(value, np.uint8, count) >= half).reshape(frames, *shape)


def _organ_names(values: DatasetValues) -> dict[int, str]:
    """Segment numbers whose label is a known organ; other labels are free text and are left out."""
    names = {
        DatasetValues(item).integer("SegmentNumber", 0): match_organ(
            DatasetValues(item).text("SegmentLabel")
        )
        for item in values.items("SegmentSequence")
    }
    return {number: name for number, name in names.items() if name}
