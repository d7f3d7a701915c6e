"""DICOM Segmentation objects: label maps in frames, placed by their own positions (PS3.3 A.51)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from voco_data.dicom.defined_terms import known_uid
from voco_data.dicom.header import MAX_FRAMES, MAX_PIXELS, Triple, read_dataset, transfer_syntax
from voco_data.dicom.pixels.decode import RLE, UNCOMPRESSED
from voco_data.dicom.values import DatasetValues
from voco_data.errors import SeriesRefused
from voco_data.limits import check_voxels
from voco_data.masks.organs import known_name
from voco_data.masks.placement import Mask
from voco_data.reasons import Reason
from voco_data.volumes.geometry import Geometry, unit

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STEP_TOLERANCE = 0.05
"""How far a frame may lie from an even step, as a fraction of it."""


def read_seg(path: Path) -> Mask:
    """Labels of a binary or fractional SEG; the segment's number is the label.

    A fractional segment counts where it is at least half. Overlapping segments: the lower number
    stays. Raises SeriesRefused.
    """
    dataset = read_dataset(path, pixels=True)
    take = DatasetValues(dataset)
    if take.text("SOPClassUID") != SEGMENTATION:
        raise SeriesRefused(Reason.NOT_CT, "no DICOM segmentation")
    frames = take.integer("NumberOfFrames", 1)
    rows, columns = take.integer("Rows", 0), take.integer("Columns", 0)
    if not 1 <= frames <= MAX_FRAMES or rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise SeriesRefused(Reason.UNREADABLE, f"{frames} frames of {rows} x {columns}")
    takes = DatasetValues.of_frames(dataset, frames)
    positions = np.array([_numbers(t, "ImagePositionPatient", 3) for t in takes])
    orientation = _numbers(takes[0], "ImageOrientationPatient", 6)
    spacing = _numbers(takes[0], "PixelSpacing", 2)
    along_row, along_column = orientation[:3], orientation[3:]
    normal = unit(np.cross(along_row, along_column).tolist())
    depths = positions @ normal
    at, step = _even(depths, takes[0].number("SpacingBetweenSlices", 1.0))
    shape = (int(at.max()) + 1, rows, columns)
    check_voxels(shape)
    masks = _frames(dataset, (rows, columns), frames)
    labels = np.zeros(shape, np.uint16)
    for frame in np.argsort([_segment(t) for t in takes], kind="stable"):
        plane = labels[at[frame]]
        plane[masks[frame] & (plane == 0)] = _segment(takes[frame])
    lowest = positions[int(depths.argmin())]
    geometry = Geometry(
        shape,
        (step, spacing[0], spacing[1]),
        _triple(lowest.tolist()),
        (normal, _triple(along_column), _triple(along_row)),
    )
    return Mask(labels, geometry, _names(take))


def _numbers(take: DatasetValues, keyword: str, count: int) -> tuple[float, ...]:
    found = take.numbers(keyword, count)
    if found is None:
        raise SeriesRefused(Reason.MISSING_GEOMETRY, f"a frame without {keyword}")
    return found


def _triple(values: list[float] | tuple[float, ...]) -> Triple:
    x, y, z = values
    return (x, y, z)


def _segment(take: DatasetValues) -> int:
    """ReferencedSegmentNumber of a frame (PS3.3 C.8.20.3.1)."""
    return take.integer("ReferencedSegmentNumber", 1)


def _even(depths: npt.NDArray[np.float64], default: float) -> tuple[npt.NDArray[np.int64], float]:
    """Slice index of each frame, and the step: frames of empty slices may be left out."""
    distinct = np.unique(np.round(depths, 3))
    step = float(np.diff(distinct).min()) if len(distinct) > 1 else default
    exact = (depths - depths.min()) / step
    index = np.rint(exact).astype(np.int64)
    if np.abs(exact - index).max() > STEP_TOLERANCE * max(1, len(distinct)):
        raise SeriesRefused(Reason.UNEVEN_SPACING, "frames of a segmentation at uneven distances")
    return index, step


def _frames(dataset: Dataset, shape: tuple[int, int], frames: int) -> npt.NDArray[np.bool_]:
    """(frames, rows, columns): what each frame marks."""
    syntax, take = transfer_syntax(dataset), DatasetValues(dataset)
    bits, value = take.integer("BitsAllocated", 1), dataset.get("PixelData")
    if syntax == RLE or syntax not in UNCOMPRESSED or bits not in (1, 8):
        raise SeriesRefused(
            Reason.UNSUPPORTED_SYNTAX, f"a segmentation in {known_uid(syntax)}, {bits} bits"
        )
    count = frames * shape[0] * shape[1]
    if not isinstance(value, bytes) or len(value) * 8 < count * bits:
        raise SeriesRefused(Reason.UNREADABLE, "a segmentation with too few pixels")
    if bits == 1:  # packed over frames, least significant bit first (PS3.5 8.1.1)
        marked = np.unpackbits(np.frombuffer(value, np.uint8), count=count, bitorder="little")
        return marked.astype(bool).reshape(frames, *shape)
    half = take.integer("MaximumFractionalValue", 1) / 2
    return (np.frombuffer(value, np.uint8, count) >= half).reshape(frames, *shape)


def _names(take: DatasetValues) -> dict[int, str]:
    """Segment numbers whose label is an organ that we know; free text goes no further."""
    named = {
        DatasetValues(item).integer("SegmentNumber", 0): known_name(
            DatasetValues(item).text("SegmentLabel")
        )
        for item in take.items("SegmentSequence")
    }
    return {number: name for number, name in named.items() if name}
