"""The whole recipe of one series on one screen: files to HU, to a box, to every grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.abdomen import find_box
from voco_data.box import Box
from voco_data.cohort import SeriesEntry
from voco_data.dicom.series import read_series
from voco_data.errors import SeriesRefused
from voco_data.geometry import Canonical
from voco_data.nifti import read_nifti
from voco_data.reasons import Reason
from voco_data.resample import resample_to_uint8
from voco_data.spec import StoreSpec
from voco_data.volume import AIR_HU, Volume


@dataclass(frozen=True, slots=True)
class Prepared:
    """One decoded series, oriented and ready for any grid of one set of rules."""

    volume: Volume
    where: Canonical
    hu: npt.NDArray[np.int16]
    """HU along the canonical axes: a view of `volume.hu` where they run that way already."""


def prepare(base: Path, entry: SeriesEntry, spec: StoreSpec) -> Prepared:
    """Read one series and bring it to the canonical axes. Raises SeriesRefused.

    `spec` gives the rules of what counts as a volume.
    """
    paths = [base / file for file in entry.files]
    if entry.kind == "dicom":
        volume = read_series(
            paths, spacing_tolerance=spec.spacing_tolerance, min_slices=spec.min_slices
        )
    else:
        volume = read_nifti(paths[0], min_slices=spec.min_slices)
    where = volume.geometry.canonical(spec.axis_tolerance_deg)
    extent_mm = volume.geometry.extent_mm[where.permutation[0]]
    if extent_mm < spec.min_extent_mm:
        raise SeriesRefused(
            Reason.TOO_THIN,
            f"covers {extent_mm:.1f} mm, at least {spec.min_extent_mm:g} mm are needed",
        )
    # The kernel runs along rows, so a view that runs against them is copied once.
    hu = np.ascontiguousarray(where.view(volume.hu), dtype=np.int16)
    return Prepared(volume, where, hu)


def boxes(prepared: Prepared, specs: Sequence[StoreSpec]) -> dict[StoreSpec, Box]:
    """The box that each spec asks for; specs with one crop policy share the search."""
    found: dict[object, Box] = {}
    for spec in specs:
        policy = (spec.crop, spec.margin_mm)
        if policy not in found:
            found[policy] = find_box(
                prepared.hu,
                prepared.where.spacing_mm,
                crop=spec.crop,
                margin_mm=spec.margin_mm,
            )
    return {spec: found[(spec.crop, spec.margin_mm)] for spec in specs}


def to_grid(prepared: Prepared, box: Box, spec: StoreSpec) -> npt.NDArray[np.uint8]:
    """The box on the spec's grid, uint8 (Z, Y, X), canonical axes."""
    return resample_to_uint8(
        prepared.hu,
        box.start,
        box.stop,
        spec.grid,
        spec.window_low_hu,
        spec.window_width_hu,
        AIR_HU,
    )
