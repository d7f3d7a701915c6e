"""The whole recipe of one series on one screen: files to HU, to a box, to every grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.cohort import SeriesEntry
from voco_data.cropping.abdomen import find_box
from voco_data.cropping.external_boxes import GivenBox
from voco_data.cropping.organ_box import include_organs
from voco_data.deidentification.burned_in import looks_like_text
from voco_data.dicom.series.reader import read_series
from voco_data.errors import SeriesRefused
from voco_data.masks.files import read_placed
from voco_data.masks.organs import OrganBounds, find_organs
from voco_data.masks.placement import PlacedMask
from voco_data.nifti.reader import read_nifti
from voco_data.preprocessing.reorient import labels_to_axes, to_axes
from voco_data.preprocessing.resample import resample_to_uint8
from voco_data.reasons import Reason
from voco_data.store.spec import StoreSpec
from voco_data.volumes.box import Box
from voco_data.volumes.geometry import Canonical
from voco_data.volumes.volume import AIR_HU, Volume, content_state, may_be_hu


@dataclass(frozen=True)
class Prepared:
    """One decoded series, oriented and ready for any grid of one set of rules."""

    volume: Volume
    """As the scanner wrote it."""
    where: Canonical
    """The canonical volume: a view of the scanner's, or of what it was resampled to."""
    hu: npt.NDArray[np.int16]
    """HU along the canonical axes (z, y, x), contiguous."""
    flags: tuple[str, ...]
    """Remarks that did not stop the series."""
    driver: str = ""
    """Digest of what drives the box beside the pixels: a mask, or a box made elsewhere."""
    organs: dict[str, OrganBounds] = field(default_factory=dict)
    """Organs that masks show, by name."""
    given: GivenBox | None = None

    @property
    def resampled(self) -> bool:
        """Whether a tilt or an oblique orientation was resampled onto the canonical axes."""
        return self.where.native is not self.volume.geometry

    @cached_property
    def input_digest(self) -> str:
        """Digest of pixels, geometry and what drives the box."""
        return self.volume.input_digest(self.driver)

    @cached_property
    def content_digest(self) -> str:
        """Digest of the canonical HU alone: the same volume as DICOM and as NIfTI has one."""
        if not self.resampled:
            return self.volume.content_digest()
        state = content_state(self.hu.shape)
        state.update(self.hu.data)
        return state.hexdigest()


def prepare(
    base: Path, entry: SeriesEntry, spec: StoreSpec, given: GivenBox | None = None
) -> Prepared:
    """Read one series with its masks and bring it to the canonical axes. Raises SeriesRefused.

    `spec` gives the rules of what counts as a volume; `given` is a box made elsewhere.
    """
    volume = _read(base, entry, spec)
    if not may_be_hu(volume.hu):
        raise SeriesRefused(Reason.NOT_HU, "neither fat, lung nor air: not HU, or no intercept")
    if looks_like_text(volume.hu):
        raise SeriesRefused(Reason.BURNED_IN, "pixels that look like a line of text")
    mask, mask_flags = read_placed(base, entry.masks, volume.geometry)
    upright = volume if volume.geometry.is_aligned(spec.axis_tolerance_deg) else to_axes(volume)
    where = upright.geometry.canonical(spec.axis_tolerance_deg)
    if where.shape[0] < spec.min_slices:
        raise SeriesRefused(
            Reason.TOO_FEW_SLICES,
            f"{where.shape[0]} slices, at least {spec.min_slices} are needed",
        )
    extent_mm = where.shape[0] * where.spacing_mm[0]
    if extent_mm < spec.min_extent_mm:
        raise SeriesRefused(
            Reason.TOO_THIN,
            f"covers {extent_mm:.1f} mm, at least {spec.min_extent_mm:g} mm are needed",
        )
    return Prepared(
        volume,
        where,
        # The kernel runs along rows, so a view that runs against them is copied once.
        np.ascontiguousarray(where.view(upright.hu), dtype=np.int16),
        (*upright.flags, *mask_flags),
        given.digest if given is not None else mask.digest if mask is not None else "",
        {} if mask is None else _organs(mask, volume, where),
        given,
    )


def _read(base: Path, entry: SeriesEntry, spec: StoreSpec) -> Volume:
    paths = [base / file for file in entry.files]
    if entry.kind == "dicom":
        return read_series(paths, gaps=spec.gaps, min_slices=spec.min_slices)
    return read_nifti(paths[0], min_slices=spec.min_slices)


def _organs(mask: PlacedMask, volume: Volume, where: Canonical) -> dict[str, OrganBounds]:
    labels = mask.labels
    if where.native is not volume.geometry:
        labels = labels_to_axes(labels, volume.geometry, where.native)
    return find_organs(np.ascontiguousarray(where.view(labels), dtype=np.uint16), mask.names)


def boxes(prepared: Prepared, specs: Sequence[StoreSpec]) -> dict[StoreSpec, Box]:
    """The box that each spec asks for; specs with one crop policy share the search."""
    found: dict[object, Box] = {}
    for spec in specs:
        policy = (spec.crop, spec.margin_mm)
        if policy not in found:
            found[policy] = _box(prepared, spec)
    return {spec: found[(spec.crop, spec.margin_mm)] for spec in specs}


def _box(prepared: Prepared, spec: StoreSpec) -> Box:
    where = prepared.where
    found = find_box(prepared.hu, where.spacing_mm, crop=spec.crop, margin_mm=spec.margin_mm)
    if spec.crop != "abdomen":
        return found
    if prepared.given is not None:
        return prepared.given.on(where, found)
    return include_organs(found, prepared.organs, where.shape, where.spacing_mm, spec.margin_mm)


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
