"""The order of a series' slices and their grid, from the headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.dicom.header import Header
from voco_data.dicom.pixels.decode import is_lossy
from voco_data.errors import SeriesRefused
from voco_data.limits import check_voxels
from voco_data.reasons import Reason
from voco_data.volumes import (
    ORTHOGONAL_TOLERANCE,
    EvenPositions,
    GapPolicy,
    Geometry,
    Triple,
    even_positions,
    unit_vector,
)

SAME_POSITION_MM = 0.01
"""Two slices closer than this along the normal have one position."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of a direction cosine within one series."""

LENGTH_TOLERANCE = 0.01
"""Direction cosines are rounded; their length may be off by this."""

SHEAR_TOLERANCE_PX = 0.5
"""In-plane drift over the whole stack that is not a gantry tilt, in pixels."""

STRAIGHTNESS_TOLERANCE_MM = 1.0
"""Slices may lie this far off the straight line through the first and the last of them."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices in order along one normal, and their grid."""

    order: tuple[int, ...]
    """Indices of the kept headers, ascending along the normal."""
    geometry: Geometry
    even: EvenPositions


def order_slices(
    headers: Sequence[Header], kept: Iterable[int], gaps: GapPolicy, min_slices: int
) -> Stack:
    """Order the headers at indices `kept` along their normal, and find their grid.

    Raises SeriesRefused: MIXED_GEOMETRY, BAD_GEOMETRY, TOO_FEW_SLICES, MISSING_SLICES,
    UNEVEN_SPACING, or what limits.check_voxels raises.
    """
    check_alike(headers)
    depths = depths_of(headers)
    order = tuple(sorted(kept, key=lambda index: (depths[index], index)))
    too_few = SeriesRefused(
        Reason.TOO_FEW_SLICES, f"{len(order)} slice positions, at least {min_slices} are needed"
    )
    if len(order) < 2:
        raise too_few
    # For a short series, missing or uneven slices are the better reason: they are tested first.
    even = even_positions(depths[list(order)], gaps)
    if len(order) < min_slices:
        raise too_few
    first = headers[order[0]]
    direction, step_mm = _direction([headers[index] for index in order], even.step_mm)
    geometry = Geometry(
        shape=(even.count, first.rows, first.columns),
        spacing_mm=(step_mm, first.spacing_mm[0], first.spacing_mm[1]),
        origin_mm=first.position_mm,
        axes=(direction, unit_vector(first.along_column), unit_vector(first.along_row)),
    )
    check_voxels(geometry.shape)
    return Stack(order, geometry, even)


def check_alike(headers: Sequence[Header]) -> None:
    """Raise MIXED_GEOMETRY for slices that differ in matrix, pixel spacing or orientation."""
    first = headers[0]
    # The usual case, and cheap: all values are equal.
    distinct = {(h.rows, h.columns, h.spacing_mm, h.along_row, h.along_column) for h in headers}
    if len(distinct) == 1:
        return
    for h in headers:
        if (h.rows, h.columns) != (first.rows, first.columns):
            raise SeriesRefused(
                Reason.MIXED_GEOMETRY,
                f"slices of {first.rows} x {first.columns} and {h.rows} x {h.columns} pixels",
            )
        if not np.allclose(h.spacing_mm, first.spacing_mm, rtol=1e-3, atol=0):
            raise SeriesRefused(Reason.MIXED_GEOMETRY, "slices differ in pixel spacing")
        difference = np.subtract(h.along_row + h.along_column, first.along_row + first.along_column)
        if np.abs(difference).max() > ORIENTATION_TOLERANCE:
            raise SeriesRefused(Reason.MIXED_GEOMETRY, "slices differ in orientation")


def _direction(headers: Sequence[Header], step_mm: float) -> tuple[Triple, float]:
    """Unit direction from slice to slice, and the distance of slices along it.

    `step_mm` is their distance along the normal. A tilted gantry shifts each slice in its plane, so
    that the direction is not the normal.
    """
    normal = _normal(headers)
    positions = np.array([h.position_mm for h in headers])
    depths = (positions - positions[0]) @ np.asarray(normal)
    per_mm = (positions[-1] - positions[0]) / depths[-1]
    deviation_mm = np.linalg.norm(positions - positions[0] - depths[:, None] * per_mm, axis=1).max()
    if deviation_mm > STRAIGHTNESS_TOLERANCE_MM:
        raise SeriesRefused(
            Reason.MIXED_GEOMETRY, f"slices lie up to {deviation_mm:.1f} mm off a straight line"
        )
    shift_mm = float(np.linalg.norm(per_mm - normal) * depths[-1])
    if shift_mm <= SHEAR_TOLERANCE_PX * min(headers[0].spacing_mm):
        return normal, step_mm
    return unit_vector(per_mm.tolist()), float(np.linalg.norm(per_mm)) * step_mm


def header_flags(headers: Sequence[Header]) -> Iterator[str]:
    """Flags of a series that follow from its headers."""
    if any(is_lossy(h.transfer_syntax) or h.lossy for h in headers):
        yield "lossy"
    if headers[0].monochrome1:
        yield "monochrome1"
    if headers[0].frames > 1:
        yield "multi_frame"


def _normal(headers: Sequence[Header]) -> Triple:
    """The first slice's normal, for all slices: their own differ by rounding."""
    first = headers[0]
    lengths = [float(np.linalg.norm(axis)) for axis in (first.along_row, first.along_column)]
    if max(abs(length - 1.0) for length in lengths) > LENGTH_TOLERANCE:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "rows or columns are not unit vectors")
    cosine = abs(float(np.dot(unit_vector(first.along_row), unit_vector(first.along_column))))
    if cosine > ORTHOGONAL_TOLERANCE:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "rows and columns are not perpendicular")
    return unit_vector(np.cross(first.along_row, first.along_column).tolist())


def depths_of(headers: Sequence[Header]) -> npt.NDArray[np.float64]:
    """Position of every slice along the stack's normal, in mm."""
    positions = np.array([h.position_mm for h in headers])
    return np.asarray(positions @ np.asarray(_normal(headers)), np.float64)
