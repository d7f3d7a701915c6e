"""The order of the slices of a series, and their grid, from the headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.dicom.header import Header
from voco_data.dicom.pixels.decode import is_lossy
from voco_data.errors import SeriesRefused
from voco_data.limits import check_slice_count, check_voxels
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
"""Slices at a smaller distance along the normal have the same position."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of a direction cosine within one series."""

LENGTH_TOLERANCE = 0.01
"""Largest error of the length of a direction, whose cosines are rounded."""

SHEAR_TOLERANCE_PX = 0.5
"""Largest in-plane drift over the stack, in pixels, that does not count as a gantry tilt."""

STRAIGHTNESS_TOLERANCE_MM = 1.0
"""Largest distance of a slice from the straight line through the first and the last one."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices in order along one normal, and their grid."""

    order: tuple[int, ...]
    """Indices of the headers, ascending along the normal."""
    geometry: Geometry
    positions: EvenPositions
    """Positions along the normal, measured and even."""


def order_slices(
    headers: Sequence[Header], indices: Iterable[int], gaps: GapPolicy, min_slices: int
) -> Stack:
    """Order the headers at `indices` along their normal, and find their grid.

    Raises SeriesRefused: MIXED_PATIENTS, MIXED_GEOMETRY, BAD_GEOMETRY, TOO_FEW_SLICES,
    MISSING_SLICES, UNEVEN_SPACING, or what limits.check_voxels raises.
    """
    check_uniform_geometry(headers)
    depths = slice_depths(headers)
    order = tuple(sorted(indices, key=lambda index: (depths[index], index)))
    if len(order) < 2:
        check_slice_count(len(order), max(2, min_slices))
    # Missing or uneven slices explain a short series better, so they are tested first.
    positions = even_positions(depths[list(order)], gaps)
    check_slice_count(len(order), min_slices)
    first = headers[order[0]]
    direction, step_mm = _slice_direction([headers[index] for index in order], positions.step_mm)
    geometry = Geometry(
        shape=(positions.count, first.rows, first.columns),
        spacing_mm=(step_mm, first.spacing_mm[0], first.spacing_mm[1]),
        origin_mm=first.position_mm,
        axes=(direction, unit_vector(first.along_column), unit_vector(first.along_row)),
    )
    check_voxels(geometry.shape)
    return Stack(order, geometry, positions)


def check_uniform_geometry(headers: Sequence[Header]) -> None:
    """Raise MIXED_GEOMETRY for slices that differ in matrix, pixel spacing or orientation.

    Raises MIXED_PATIENTS for slices that name several patients; some may name none.
    """
    first = headers[0]
    n_patients = len({h.patient_id for h in headers} - {""})
    if n_patients > 1:
        raise SeriesRefused(
            Reason.MIXED_PATIENTS, f"slices of one series name {n_patients} patients (PatientID)"
        )
    # Usually all values are equal, which a set shows at little cost.
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


def _slice_direction(headers: Sequence[Header], step_mm: float) -> tuple[Triple, float]:
    """Unit direction from slice to slice, and the distance of slices along it, in mm.

    `step_mm` is their distance along the normal. A tilted gantry shifts each slice in its plane, so
    the direction differs from the normal.
    """
    normal = _normal(headers)
    positions = np.array([h.position_mm for h in headers])
    depths = (positions - positions[0]) @ np.asarray(normal)
    offset_per_mm = (positions[-1] - positions[0]) / depths[-1]
    deviation_mm = np.linalg.norm(
        positions - positions[0] - depths[:, None] * offset_per_mm, axis=1
    ).max()
    if deviation_mm > STRAIGHTNESS_TOLERANCE_MM:
        raise SeriesRefused(
            Reason.MIXED_GEOMETRY, f"slices lie up to {deviation_mm:.1f} mm off a straight line"
        )
    shift_mm = float(np.linalg.norm(offset_per_mm - normal) * depths[-1])
    if shift_mm <= SHEAR_TOLERANCE_PX * min(headers[0].spacing_mm):
        return normal, step_mm
    return unit_vector(offset_per_mm.tolist()), float(np.linalg.norm(offset_per_mm)) * step_mm


def header_flags(headers: Sequence[Header]) -> Iterator[str]:
    """Flags of a series that follow from its headers."""
    if any(is_lossy(h.transfer_syntax) or h.lossy for h in headers):
        yield "lossy"
    if headers[0].monochrome1:
        yield "monochrome1"
    if headers[0].frames > 1:
        yield "multi_frame"


def _normal(headers: Sequence[Header]) -> Triple:
    """The normal of the first slice. Those of the others differ by rounding."""
    first = headers[0]
    lengths = [float(np.linalg.norm(axis)) for axis in (first.along_row, first.along_column)]
    if max(abs(length - 1.0) for length in lengths) > LENGTH_TOLERANCE:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "rows or columns are not unit vectors")
    cosine = abs(float(np.dot(unit_vector(first.along_row), unit_vector(first.along_column))))
    if cosine > ORTHOGONAL_TOLERANCE:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "rows and columns are not perpendicular")
    return unit_vector(np.cross(first.along_row, first.along_column).tolist())


def slice_depths(headers: Sequence[Header]) -> npt.NDArray[np.float64]:
    """(n,) position of every slice along the normal of the stack, in mm."""
    positions = np.array([h.position_mm for h in headers])
    return np.asarray(positions @ np.asarray(_normal(headers)), np.float64)
