"""DICOM Segmentation objects: label maps in frames with positions of their own (PS3.3 A.51)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from voco_data.dicom import (
    MAX_FRAMES,
    SEGMENTATION_CLASS,
    UNCOMPRESSED,
    DatasetValues,
    describe_uid,
    read_dataset,
    transfer_syntax,
)
from voco_data.errors import SeriesRefused
from voco_data.limits import MAX_PIXELS
from voco_data.masks.organs import match_organ
from voco_data.masks.placement import Mask, MaskMisplacedError, fit_grid
from voco_data.reasons import Reason
from voco_data.volumes import Geometry, Triple, unit_vector

STEP_TOLERANCE = 0.05
"""Largest distance of a frame from an even step, as a fraction of the step."""


HEADER_BYTES = 2**26
"""Largest header."""
FRAME_BYTES = 2**14
"""Largest functional groups of one frame; they have about 600 bytes."""
SEGMENTS_BYTES = 2**22
"""Largest description of all segments; one has about 400 bytes."""
BYTES_PER_VOXEL = 16
"""Largest number of bytes of frames for each voxel of the series: 128 binary segments that each
have all slices, or 16 fractional ones."""


def read_seg(path: Path, series: Geometry) -> Mask:
    """Labels of a binary or fractional SEG within the grid `series`: the number of the segment.

    A fractional segment counts where its value is at least half of the maximum. Where segments
    overlap, the lower number has priority. The size of the file, also that of its inflated data
    set, and the number of its frames are limited by the grid of the series. Raises SeriesRefused,
    and MaskMisplacedError as `fit_grid`.
    """
    most_bytes = HEADER_BYTES + BYTES_PER_VOXEL * math.prod(series.shape)
    dataset = read_dataset(path, pixels=True, most_bytes=most_bytes)
    values = DatasetValues(dataset)
    if values.text("SOPClassUID") != SEGMENTATION_CLASS:
        raise SeriesRefused(Reason.NOT_CT, "no DICOM segmentation")
    frames = values.integer("NumberOfFrames", 1)
    rows, columns = values.integer("Rows", 0), values.integer("Columns", 0)
    if not 1 <= frames <= MAX_FRAMES or rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise SeriesRefused(Reason.UNREADABLE, f"{frames} frames of {rows} x {columns}")
    _check_sequence(dataset, "SegmentSequence", SEGMENTS_BYTES)
    if frames > max(series.shape) * max(1, len(values.items("SegmentSequence"))):
        raise MaskMisplacedError(f"{frames} frames are more than its segments have in the series")
    _check_sequence(dataset, "PerFrameFunctionalGroupsSequence", frames * FRAME_BYTES)
    frame_values = DatasetValues.for_frames(dataset, frames)
    positions = np.array([_numbers(frame, "ImagePositionPatient", 3) for frame in frame_values])
    orientation = _numbers(frame_values[0], "ImageOrientationPatient", 6)
    spacing = _numbers(frame_values[0], "PixelSpacing", 2)
    along_row, along_column = orientation[:3], orientation[3:]
    normal = unit_vector(np.cross(along_row, along_column).tolist())
    depths = positions @ normal
    slices, step = _slice_indices(depths, frame_values[0].number("SpacingBetweenSlices", 1.0))
    lowest = positions[int(depths.argmin())]
    geometry = Geometry(
        shape=(int(slices.max()) + 1, rows, columns),
        spacing_mm=(step, spacing[0], spacing[1]),
        origin_mm=_triple(lowest.tolist()),
        axes=(normal, _triple(along_column), _triple(along_row)),
    )
    fit_grid(geometry, series)
    labels = np.zeros(geometry.shape, np.uint16)
    segments = [_segment_number(frame) for frame in frame_values]
    marked: set[int] = set()
    masks = _FrameMasks(dataset, (rows, columns), frames)
    for frame in np.argsort(segments, kind="stable"):
        plane, mask = labels[slices[frame]], masks.read(int(frame))
        if mask.any():
            marked.add(segments[frame])
        plane[mask & (plane == 0)] = segments[frame]
    names = _organ_names(values)
    hidden = marked.difference(np.unique(labels).tolist())
    return Mask(
        labels,
        geometry,
        names,
        omits_empty_slices=True,
        # A segment without voxels was sought and is not there, unless another segment covers it.
        label_set=frozenset(name for number, name in names.items() if number not in hidden),
    )


def _check_sequence(dataset: Dataset, keyword: str, most_bytes: int) -> None:
    """Raise SeriesRefused for a sequence that is too long to be parsed.

    pydicom makes objects of the items of a sequence with a length at the first access.
    """
    element: object = dataset.get_item(keyword)
    if isinstance(element, RawDataElement) and element.length > most_bytes:
        raise SeriesRefused(Reason.UNREADABLE, f"{keyword} of {element.length} bytes")


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


class _FrameMasks:
    """Which pixels the frames mark. One frame is unpacked at a time."""

    def __init__(self, dataset: Dataset, shape: tuple[int, int], frames: int) -> None:
        """Raises SeriesRefused for other pixels than those of a SEG, and for too few."""
        syntax, values = transfer_syntax(dataset), DatasetValues(dataset)
        bits, value = values.integer("BitsAllocated", 1), dataset.get("PixelData")
        if syntax not in UNCOMPRESSED or bits not in (1, 8):
            raise SeriesRefused(
                Reason.UNSUPPORTED_SYNTAX, f"a segmentation in {describe_uid(syntax)}, {bits} bits"
            )
        self._shape, self._size, self._bits = shape, shape[0] * shape[1], bits
        if not isinstance(value, bytes) or len(value) * 8 < frames * self._size * bits:
            raise SeriesRefused(Reason.UNREADABLE, "a segmentation with too few pixels")
        self._bytes = np.frombuffer(value, np.uint8)
        self._half = values.integer("MaximumFractionalValue", 1) / 2

    def read(self, frame: int) -> npt.NDArray[np.bool_]:
        """(rows, columns): whether the frame marks a pixel."""
        first, stop = frame * self._size, (frame + 1) * self._size
        if self._bits == 8:
            return (self._bytes[first:stop] >= self._half).reshape(self._shape)
        # packed across frames, least significant bit first (PS3.5 8.1.1)
        bits = np.unpackbits(self._bytes[first // 8 : -(-stop // 8)], bitorder="little")
        return bits[first % 8 :][: self._size].astype(bool).reshape(self._shape)


def _organ_names(values: DatasetValues) -> dict[int, str]:
    """Segment numbers whose label is a known organ; other labels are free text and are left out."""
    names = {
        DatasetValues(item).integer("SegmentNumber", 0): match_organ(
            DatasetValues(item).text("SegmentLabel")
        )
        for item in values.items("SegmentSequence")
    }
    return {number: name for number, name in names.items() if name}
