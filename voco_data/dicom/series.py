"""From the slices of one series to a volume: order along the normal, geometry, gaps, HU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.dicom.header import Header, parse_header, read_dataset
from voco_data.dicom.pixels import check_syntax, decode_hu, is_lossy
from voco_data.errors import SeriesRefused
from voco_data.geometry import Geometry
from voco_data.reasons import Reason
from voco_data.volume import Volume

SAME_POSITION_MM = 0.01
"""Two slices nearer than this along the normal lie at one position."""

ROUNDING_MM = 0.11
"""Some scanners round positions to 0.1 mm; such gaps are not uneven."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference in a direction cosine within one series."""

SHEAR_TOLERANCE_MM = 0.05
"""Largest in-plane step from slice to slice that is not a gantry tilt."""

MAX_SLICES = 20_000


@dataclass(frozen=True, slots=True)
class _Slice:
    header: Header
    depth_mm: float
    hu: npt.NDArray[np.int16]


def read_series(files: Sequence[Path], *, spacing_tolerance: float, min_slices: int) -> Volume:
    """Read the files of one series into HU, ordered along the slice normal.

    Slices are ordered by position, never by name or instance number. Raises SeriesRefused with
    the reason; objects in the folder that are not slices must have been left out by the index.
    """
    if len(files) < min_slices:
        raise SeriesRefused(
            Reason.TOO_FEW_SLICES, f"{len(files)} slices, at least {min_slices} are needed"
        )
    if len(files) > MAX_SLICES:
        raise SeriesRefused(Reason.BAD_GEOMETRY, f"{len(files)} slices in one series")
    slices = sorted((_read_slice(path) for path in files), key=lambda item: item.depth_mm)
    _check_alike(slices)
    slices, flags = _drop_duplicates(slices)
    if len(slices) < min_slices:
        raise SeriesRefused(
            Reason.TOO_FEW_SLICES,
            f"{len(slices)} positions, at least {min_slices} are needed",
        )
    step = _even_step(np.array([item.depth_mm for item in slices]), spacing_tolerance)
    _check_shear(slices)
    first = slices[0].header
    geometry = Geometry(
        shape=(len(slices), first.rows, first.columns),
        spacing_mm=(step, first.spacing_mm[0], first.spacing_mm[1]),
        origin_mm=first.position_mm,
        axes=(first.normal, first.along_column, first.along_row),
    )
    syntaxes = {item.header.transfer_syntax for item in slices}
    if any(is_lossy(syntax) for syntax in syntaxes):
        flags = (*flags, "lossy")
    if first.monochrome1:
        flags = (*flags, "monochrome1")
    return Volume(
        hu=np.stack([item.hu for item in slices]),
        geometry=geometry,
        instance_numbers=tuple(item.header.instance_number for item in slices),
        transfer_syntax="+".join(sorted(syntaxes)),
        flags=flags,
    )


def _read_slice(path: Path) -> _Slice:
    dataset = read_dataset(path, pixels=True)
    header = parse_header(dataset, path)
    check_syntax(header.transfer_syntax)
    depth = float(np.dot(header.position_mm, header.normal))
    return _Slice(header, depth, decode_hu(dataset, (header.rows, header.columns)))


def _check_alike(slices: Sequence[_Slice]) -> None:
    first = slices[0].header
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
            if not np.array_equal(item.hu, kept[-1].hu):
                raise SeriesRefused(
                    Reason.DUPLICATE_POSITIONS,
                    f"two different slices at {item.depth_mm:.2f} mm along the normal",
                )
            continue
        kept.append(item)
    return kept, ("dropped_duplicates",) if len(kept) < len(slices) else ()


def _even_step(depths_mm: npt.NDArray[np.float64], tolerance: float) -> float:
    """Mean distance between slices. Raises MISSING_SLICES or UNEVEN_SPACING."""
    gaps = np.diff(depths_mm)
    usual = float(np.median(gaps))
    off = np.abs(gaps - usual)
    allowed = max(tolerance * usual, ROUNDING_MM)
    if off.max() > allowed:
        worst = float(gaps[off.argmax()])
        multiple = round(worst / usual)
        missing = multiple >= 2 and abs(worst - multiple * usual) <= allowed * multiple
        raise SeriesRefused(
            Reason.MISSING_SLICES if missing else Reason.UNEVEN_SPACING,
            f"a gap of {worst:.3f} mm where {usual:.3f} mm is usual",
        )
    return float((depths_mm[-1] - depths_mm[0]) / (len(depths_mm) - 1))


def _check_shear(slices: Sequence[_Slice]) -> None:
    """Positions must step along the normal; a tilted gantry makes them step aside."""
    first, last = slices[0], slices[-1]
    step = np.subtract(last.header.position_mm, first.header.position_mm)
    aside = step - (last.depth_mm - first.depth_mm) * np.asarray(first.header.normal)
    per_slice = float(np.linalg.norm(aside)) / (len(slices) - 1)
    if per_slice > SHEAR_TOLERANCE_MM:
        raise SeriesRefused(
            Reason.GANTRY_TILT, f"slices shift {per_slice:.3f} mm in their plane at every step"
        )
