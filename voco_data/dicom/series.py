"""From the objects of one series to a volume: order along the normal, geometry, gaps, HU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.dicom.header import Header, parse_frames, read_dataset
from voco_data.dicom.modality import Modality, parse_modalities
from voco_data.dicom.pixels import PixelReader, is_lossy
from voco_data.errors import SeriesRefused
from voco_data.gaps import EvenPositions, GapPolicy, even_positions
from voco_data.geometry import ORTHOGONAL_TOLERANCE, Geometry, Triple, unit
from voco_data.limits import check_voxels
from voco_data.reasons import SKIPPED, Reason
from voco_data.volume import Volume

SAME_POSITION_MM = 0.01
"""Two slices nearer than this along the normal lie at one position."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference in a direction cosine within one series."""

LENGTH_TOLERANCE = 0.01
"""Direction cosines are rounded; their length may be off by this."""

SHEAR_TOLERANCE_PX = 0.5
"""In-plane drift over the whole stack that is not a gantry tilt, in pixels."""

WANDER_TOLERANCE_MM = 1.0
"""Slices may lie this far off the straight line through the first and the last of them."""

BYTES_AT_ONCE = 4 * 2**30
"""Larger series are judged by their headers before any pixel is read."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice, its pixels still encoded."""

    header: Header
    pixels: PixelReader
    modality: Modality

    def hu(self) -> npt.NDArray[np.int16]:
        return self.modality.to_hu(self.pixels.stored(self.header.frame))


@dataclass(frozen=True, slots=True)
class _Stack:
    """Headers in order along one normal, and what that says of their grid."""

    order: tuple[int, ...]
    """Indices of the headers that are kept, ascending along the normal."""
    geometry: Geometry
    even: EvenPositions


def read_series(files: Sequence[Path], *, gaps: GapPolicy, min_slices: int) -> Volume:
    """Read the objects of one series into HU, ordered along the slice normal.

    Slices are ordered by position, never by name or instance number. A multi-frame object is as
    many slices as it has frames. Objects among the files that are no slices of CT are left out,
    with a flag. Raises SeriesRefused with the reason.
    """
    if sum(path.stat().st_size for path in files if path.exists()) > BYTES_AT_ONCE:
        _judge_headers([h for path in files for h in _headers(path)], gaps, min_slices)
    slices, others = _read(files)
    headers = [item.header for item in slices]
    kept = _distinct(slices)
    stack = _stack(headers, kept, gaps, min_slices)
    shape = (len(stack.order), *stack.geometry.shape[1:])
    measured = np.empty(shape, np.int16)
    for index, number in enumerate(stack.order):
        measured[index] = slices[number].hu()
    flags = [
        *(["dropped_duplicates"] if len(kept) < len(slices) else []),
        *(["interpolated_slices"] if stack.even.resampled else []),
        *(["other_objects"] if others else []),
        *_header_flags(headers),
    ]
    return Volume(
        hu=stack.even.resample(measured),
        geometry=stack.geometry,
        instance_numbers=stack.even.pick([headers[n].instance_number for n in stack.order]),
        transfer_syntax="+".join(sorted({h.transfer_syntax for h in headers})),
        flags=tuple(flags),
    )


def _judge_headers(headers: Sequence[Header], gaps: GapPolicy, min_slices: int) -> None:
    """Refuse what cannot be one volume, before its pixels fill the memory."""
    if np.diff(np.sort(_depths(headers))).min(initial=np.inf) < SAME_POSITION_MM:
        raise SeriesRefused(
            Reason.DUPLICATE_POSITIONS, "slices share positions, too many to compare them"
        )
    _stack(headers, list(range(len(headers))), gaps, min_slices)


def _headers(path: Path) -> list[Header]:
    return parse_frames(read_dataset(path, pixels=False), path)


def _read(files: Sequence[Path]) -> tuple[list[_Slice], int]:
    """Slices in the files' order, and how many files are something else. Raises if all are."""
    slices: list[_Slice] = []
    others: list[SeriesRefused] = []
    for path in files:
        try:
            slices += _slices(path)
        except SeriesRefused as refusal:
            if refusal.reason not in SKIPPED:
                raise
            others.append(refusal)
    if not slices:
        raise others[0]
    return slices, len(others)


def _slices(path: Path) -> Iterator[_Slice]:
    dataset = read_dataset(path, pixels=True)
    headers = parse_frames(dataset, path)
    modalities = parse_modalities(dataset, len(headers))
    pixels = PixelReader(dataset, (headers[0].rows, headers[0].columns), len(headers))
    for header, modality in zip(headers, modalities, strict=True):
        yield _Slice(header, pixels, modality)


def _normal(headers: Sequence[Header]) -> Triple:
    """The one normal that orders a stack: slices may differ in it by rounding."""
    first = headers[0]
    lengths = [float(np.linalg.norm(axis)) for axis in (first.along_row, first.along_column)]
    if max(abs(length - 1.0) for length in lengths) > LENGTH_TOLERANCE:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "rows or columns are not unit vectors")
    across = abs(float(np.dot(unit(first.along_row), unit(first.along_column))))
    if across > ORTHOGONAL_TOLERANCE:
        raise SeriesRefused(Reason.BAD_GEOMETRY, "rows and columns are not perpendicular")
    return unit(np.cross(first.along_row, first.along_column).tolist())


def _depths(headers: Sequence[Header]) -> npt.NDArray[np.float64]:
    """Position of every slice along the stack's normal, in mm."""
    positions = np.array([h.position_mm for h in headers])
    return np.asarray(positions @ np.asarray(_normal(headers)), np.float64)


def _distinct(slices: Sequence[_Slice]) -> list[int]:
    """Indices without slices that are equal in position and pixels.

    Raises DUPLICATE_POSITIONS for those equal in position alone.
    """
    headers = [item.header for item in slices]
    _check_alike(headers)
    depths = _depths(headers)
    kept: list[int] = []
    for index in np.argsort(depths, kind="stable").tolist():
        if kept and depths[index] - depths[kept[-1]] < SAME_POSITION_MM:
            last = kept[-1]
            apart = np.subtract(headers[index].position_mm, headers[last].position_mm)
            same = float(np.linalg.norm(apart)) < SAME_POSITION_MM * 2
            if not same or not np.array_equal(slices[index].hu(), slices[last].hu()):
                raise SeriesRefused(
                    Reason.DUPLICATE_POSITIONS,
                    f"two different slices at {depths[index]:.2f} mm along the normal",
                )
            continue
        kept.append(index)
    return kept


def _stack(
    headers: Sequence[Header], kept: Sequence[int], gaps: GapPolicy, min_slices: int
) -> _Stack:
    """Order the kept headers, and find the grid that they lie on."""
    _check_alike(headers)
    depths = _depths(headers)
    order = tuple(sorted(kept, key=lambda index: (depths[index], index)))
    few = SeriesRefused(
        Reason.TOO_FEW_SLICES, f"{len(order)} slice positions, at least {min_slices} are needed"
    )
    if len(order) < 2:
        raise few
    # A hole or a collision says more of a short series than that it is short.
    even = even_positions(depths[list(order)], gaps)
    if len(order) < min_slices:
        raise few
    first = headers[order[0]]
    direction, step_mm = _direction([headers[index] for index in order], even.step_mm)
    geometry = Geometry(
        shape=(even.count, first.rows, first.columns),
        spacing_mm=(step_mm, first.spacing_mm[0], first.spacing_mm[1]),
        origin_mm=first.position_mm,
        axes=(direction, unit(first.along_column), unit(first.along_row)),
    )
    check_voxels(geometry.shape)
    return _Stack(order, geometry, even)


def _check_alike(headers: Sequence[Header]) -> None:
    first = headers[0]
    for h in headers:
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


def _direction(headers: Sequence[Header], step_mm: float) -> tuple[Triple, float]:
    """Unit direction from slice to slice, and the length of a step of `step_mm` along the normal.

    A tilted gantry makes slices step aside, so that the direction is not their normal.
    """
    normal = _normal(headers)
    positions = np.array([h.position_mm for h in headers])
    depths = (positions - positions[0]) @ np.asarray(normal)
    per_mm = (positions[-1] - positions[0]) / depths[-1]
    off = np.linalg.norm(positions - positions[0] - depths[:, None] * per_mm, axis=1).max()
    if off > WANDER_TOLERANCE_MM:
        raise SeriesRefused(
            Reason.MIXED_GEOMETRY, f"slices lie up to {off:.1f} mm off a straight line"
        )
    aside_mm = float(np.linalg.norm(per_mm - normal) * depths[-1])
    if aside_mm <= SHEAR_TOLERANCE_PX * min(headers[0].spacing_mm):
        return normal, step_mm
    return unit(per_mm.tolist()), float(np.linalg.norm(per_mm)) * step_mm


def _header_flags(headers: Sequence[Header]) -> Iterator[str]:
    if any(is_lossy(h.transfer_syntax) or h.lossy for h in headers):
        yield "lossy"
    if headers[0].monochrome1:
        yield "monochrome1"
    if headers[0].frames > 1:
        yield "multi_frame"
