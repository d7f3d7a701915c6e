"""From the objects of one series to a volume: order along the normal, geometry, gaps, HU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.dicom.header import Header, parse_frames, read_dataset
from voco_data.dicom.modality import Modality, parse_modality
from voco_data.dicom.pixels import PixelReader, is_lossy
from voco_data.errors import SeriesRefused
from voco_data.gaps import GapPolicy, even_positions
from voco_data.geometry import ORTHOGONAL_TOLERANCE, Geometry, Triple, unit
from voco_data.limits import check_voxels
from voco_data.reasons import Reason
from voco_data.volume import Volume

SAME_POSITION_MM = 0.01
"""Two slices nearer than this along the normal lie at one position."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference in a direction cosine within one series."""

SHEAR_TOLERANCE_MM = 0.05
"""Largest in-plane step from slice to slice that is not a gantry tilt."""

WANDER_TOLERANCE_MM = 1.0
"""Slices may lie this far off the straight line through the first and the last of them."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice, its pixels still encoded."""

    header: Header
    depth_mm: float
    pixels: PixelReader
    modality: Modality

    def hu(self) -> npt.NDArray[np.int16]:
        return self.modality.to_hu(self.pixels.stored(self.header.frame))


def read_series(files: Sequence[Path], *, gaps: GapPolicy, min_slices: int) -> Volume:
    """Read the objects of one series into HU, ordered along the slice normal.

    Slices are ordered by position, never by name or instance number. A multi-frame object is as
    many slices as it has frames. Raises SeriesRefused with the reason; objects in the folder that
    are not slices must have been left out by the index.
    """
    slices = sorted(_slices(files), key=lambda item: item.depth_mm)
    _check_alike(slices)
    slices, flags = _drop_duplicates(slices)
    few = SeriesRefused(
        Reason.TOO_FEW_SLICES, f"{len(slices)} slice positions, at least {min_slices} are needed"
    )
    if len(slices) < 2:
        raise few
    # A hole or a collision says more of a short series than that it is short.
    even = even_positions(np.array([item.depth_mm for item in slices]), gaps)
    if len(slices) < min_slices:
        raise few
    first = slices[0].header
    direction, step_mm = _direction(slices, even.step_mm)
    geometry = Geometry(
        shape=(even.count, first.rows, first.columns),
        spacing_mm=(step_mm, first.spacing_mm[0], first.spacing_mm[1]),
        origin_mm=first.position_mm,
        axes=(direction, first.along_column, first.along_row),
    )
    check_voxels(geometry.shape)
    measured = np.empty((len(slices), first.rows, first.columns), np.int16)
    for index, item in enumerate(slices):
        measured[index] = item.hu()
    numbers = [item.header.instance_number for item in slices]
    if even.resampled:
        flags = (*flags, "interpolated_slices")
    return Volume(
        hu=even.resample(measured),
        geometry=geometry,
        instance_numbers=even.pick(numbers),
        transfer_syntax="+".join(sorted({item.header.transfer_syntax for item in slices})),
        flags=(
            *flags,
            *_header_flags([item.header for item in slices]),
        ),
    )


def _slices(files: Sequence[Path]) -> Iterator[_Slice]:
    for path in files:
        dataset = read_dataset(path, pixels=True)
        headers = parse_frames(dataset, path)
        pixels = PixelReader(dataset, (headers[0].rows, headers[0].columns), len(headers))
        for header in headers:
            depth = float(np.dot(header.position_mm, header.normal))
            yield _Slice(header, depth, pixels, parse_modality(dataset, header.frame, len(headers)))


def _check_alike(slices: Sequence[_Slice]) -> None:
    first = slices[0].header
    across = abs(float(np.dot(first.along_row, first.along_column)))
    if across > ORTHOGONAL_TOLERANCE:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "rows and columns are not perpendicular")
    for item in slices:
        h = item.header
        if (h.rows, h.columns) != (first.rows, first.columns):
            raise SeriesRefused(
                Reason.MIXED_GEOMETRY,
                f"slices of {first.rows} x {first.columns} and {h.rows} x {h.columns} pixels",
            )
        if not np.allclose(h.spacing_mm, first.spacing_mm, rtol=1e-3, atol=0):
            raise SeriesRefused(Reason.MIXED_GEOMETRY, "slices differ in pixel spacing")
        turned = np.subtract(h.along_row + h.along_column, first.along_row + first.along_column)
        if np.abs(turned).max() > ORIENTATION_TOLERANCE:
            raise SeriesRefused(Reason.MIXED_GEOMETRY, "slices differ in orientation")


def _drop_duplicates(slices: Sequence[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Drop slices equal in position and pixels; refuse those equal in position alone."""
    kept: list[_Slice] = []
    for item in slices:
        if kept and item.depth_mm - kept[-1].depth_mm < SAME_POSITION_MM:
            if not np.array_equal(item.hu(), kept[-1].hu()):
                raise SeriesRefused(
                    Reason.DUPLICATE_POSITIONS,
                    f"two different slices at {item.depth_mm:.2f} mm along the normal",
                )
            continue
        kept.append(item)
    return kept, ("dropped_duplicates",) if len(kept) < len(slices) else ()


def _direction(slices: Sequence[_Slice], step_mm: float) -> tuple[Triple, float]:
    """Unit direction from slice to slice, and the length of a step of `step_mm` along the normal.

    A tilted gantry makes slices step aside, so that the direction is not their normal.
    """
    positions = np.array([item.header.position_mm for item in slices])
    depths = np.array([item.depth_mm for item in slices]) - slices[0].depth_mm
    per_mm = (positions[-1] - positions[0]) / depths[-1]
    off = np.linalg.norm(positions - positions[0] - depths[:, None] * per_mm, axis=1).max()
    if off > WANDER_TOLERANCE_MM:
        raise SeriesRefused(
            Reason.MIXED_GEOMETRY, f"slices lie up to {off:.1f} mm off a straight line"
        )
    normal = slices[0].header.normal
    aside = float(np.linalg.norm(per_mm - normal)) * step_mm
    if aside <= SHEAR_TOLERANCE_MM:
        return unit(normal), step_mm
    return unit(per_mm.tolist()), float(np.linalg.norm(per_mm)) * step_mm


def _header_flags(headers: Sequence[Header]) -> Iterator[str]:
    if any(is_lossy(h.transfer_syntax) or h.lossy for h in headers):
        yield "lossy"
    if headers[0].monochrome1:
        yield "monochrome1"
    if headers[0].frames > 1:
        yield "multi_frame"
