"""The steps of one series: read its files, bring it to the canonical axes, find boxes, resample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.cohort import SeriesEntry
from voco_data.cropping import GivenBox, find_box, include_organs
from voco_data.deidentification import TextSearch, looks_like_text
from voco_data.dicom import read_series
from voco_data.errors import SeriesRefused
from voco_data.limits import check_slice_count
from voco_data.masks import OrganBounds, PlacedMask, find_organs, read_masks
from voco_data.nifti import read_nifti
from voco_data.preprocessing.reorient import labels_to_canonical_grid, to_canonical_grid
from voco_data.preprocessing.resampling import resample
from voco_data.preprocessing.silhouettes import (
    OrganLabels,
    draw_silhouettes,
    find_known_organs,
)
from voco_data.reasons import Reason
from voco_data.store import StoreSpec, encode_silhouette
from voco_data.volumes import (
    AIR_HU,
    Box,
    Canonical,
    Volume,
    Voxels,
    check_hu,
    content_hasher,
)


@dataclass(frozen=True)
class PreparedSeries:
    """One decoded series along the canonical axes, ready for any grid of one set of rules."""

    volume: Volume
    """HU in the scanner's order."""
    canonical: Canonical
    """The grid of `hu`: that of the scanner, permuted and flipped, or a canonical one."""
    hu: npt.NDArray[np.int16]
    """HU along the canonical axes (z, y, x), contiguous."""
    flags: tuple[str, ...]
    """Remarks for the ledger."""
    box_digest: str = ""
    """Digest of the given box and the masks; empty if only HU determine what is stored."""
    organs: dict[str, OrganBounds] = field(default_factory=dict)
    """Bounds of the organs in its masks, by name."""
    labels: OrganLabels | None = None
    """The voxels of the organs whose place its masks tell; None if they tell of none."""
    given_box: GivenBox | None = None
    """A box that another program made."""

    @property
    def resampled(self) -> bool:
        """Whether a tilted or oblique volume was resampled onto the canonical axes."""
        return self.canonical.native is not self.volume.geometry

    @cached_property
    def input_digest(self) -> str:
        """Digest of pixels, geometry and `box_digest`."""
        return self.volume.input_digest(self.box_digest)

    @cached_property
    def content_digest(self) -> str:
        """Digest of the canonical HU alone: equal for one volume as DICOM and as NIfTI."""
        if not self.resampled:
            return self.volume.content_digest()
        hasher = content_hasher(self.hu.shape)
        hasher.update(self.hu.data)
        return hasher.hexdigest()


def prepare_series(
    base: Path,
    entry: SeriesEntry,
    spec: StoreSpec,
    given_box: GivenBox | None = None,
    burned_in: TextSearch = "usual",
) -> PreparedSeries:
    """Read one series with its masks and bring it to the canonical axes. Raises SeriesRefused.

    `spec` gives the rules for a volume. `given_box` is a box that another program made. `burned_in`
    says how text in the pixels is searched.
    """
    volume = _read_volume(base, entry, spec)
    # Bright text beside air also looks like values that wrapped around, so text is sought first.
    if looks_like_text(volume.hu, burned_in):
        raise SeriesRefused(Reason.BURNED_IN, "pixels that look like a line of text")
    check_hu(volume.hu)
    mask, mask_flags = read_masks(base, entry.masks, volume.geometry)
    is_aligned = volume.geometry.is_aligned(spec.axis_tolerance_deg)
    aligned = volume if is_aligned else to_canonical_grid(volume)
    canonical = aligned.geometry.canonical(spec.axis_tolerance_deg)
    n_slices = canonical.shape[0]
    check_slice_count(n_slices, spec.min_slices)
    extent_mm = n_slices * canonical.spacing_mm[0]
    if extent_mm < spec.min_extent_mm:
        raise SeriesRefused(
            Reason.TOO_THIN,
            f"covers {extent_mm:.1f} mm, at least {spec.min_extent_mm:g} mm are needed",
        )
    organs, labels = ({}, None) if mask is None else _read_labels(mask, volume, canonical)
    return PreparedSeries(
        volume=volume,
        canonical=canonical,
        # The resampling kernel reads along rows, so a view in another order is copied.
        hu=np.ascontiguousarray(canonical.to_canonical(aligned.hu), dtype=np.int16),
        flags=(*aligned.flags, *entry.flags, *mask_flags),
        box_digest=_box_digest(given_box, mask),
        organs=organs,
        labels=labels,
        given_box=given_box,
    )


def _box_digest(given_box: GivenBox | None, mask: PlacedMask | None) -> str:
    """Digest of what determines the box and the organs beside HU: given box and mask, or empty."""
    return ("" if given_box is None else given_box.digest) + ("" if mask is None else mask.digest)


def _read_volume(base: Path, entry: SeriesEntry, spec: StoreSpec) -> Volume:
    paths = [base / file for file in entry.files]
    if entry.kind == "dicom":
        return read_series(paths, gaps=spec.gap_policy, min_slices=spec.min_slices)
    return read_nifti(paths[0], min_slices=spec.min_slices)


def _read_labels(
    mask: PlacedMask, volume: Volume, canonical: Canonical
) -> tuple[dict[str, OrganBounds], OrganLabels | None]:
    """The bounds of the organs in a mask, and its label map along the canonical axes."""
    labels = mask.labels
    if canonical.native is not volume.geometry:
        labels = labels_to_canonical_grid(labels, volume.geometry, canonical.native)
    voxels = np.ascontiguousarray(canonical.to_canonical(labels), dtype=np.uint16)
    # The faces of a tilted or oblique mask count as those of the nearest canonical axis.
    native = volume.geometry.nearest_canonical()
    along_z = [cut for cut in mask.cuts if cut.axis == native.permutation[0]]
    organs = find_organs(
        voxels,
        mask.names,
        below={cut.label for cut in along_z if cut.upper == native.flips[0]},
        above={cut.label for cut in along_z if cut.upper != native.flips[0]},
    )
    known = find_known_organs(mask, organs)
    return organs, OrganLabels(voxels, known) if known else None


def find_boxes(prepared: PreparedSeries, specs: Sequence[StoreSpec]) -> dict[StoreSpec, Box]:
    """The box of each spec; specs with one crop policy share the search."""
    by_policy: dict[object, Box] = {}
    for spec in specs:
        policy = (spec.crop, spec.margin_mm)
        if policy not in by_policy:
            by_policy[policy] = _find_box(prepared, spec)
    return {spec: by_policy[(spec.crop, spec.margin_mm)] for spec in specs}


def _find_box(prepared: PreparedSeries, spec: StoreSpec) -> Box:
    shape, spacing_mm = prepared.canonical.shape, prepared.canonical.spacing_mm
    profile_box = find_box(prepared.hu, spacing_mm, crop=spec.crop, margin_mm=spec.margin_mm)
    if spec.crop != "abdomen":
        return profile_box
    if prepared.given_box is not None:
        return prepared.given_box.to_voxels(prepared.canonical, profile_box)
    return include_organs(profile_box, prepared.organs, shape, spacing_mm, spec.margin_mm)


def resample_to_grid(prepared: PreparedSeries, box: Box, spec: StoreSpec) -> Voxels:
    """Resample the box to the grid of `spec`: stored voxels (Z, Y, X) along the canonical axes."""
    return resample(prepared.hu, box.start, box.stop, spec.grid, spec.window, floor_hu=AIR_HU)


def draw_organ_maps(prepared: PreparedSeries, box: Box, spec: StoreSpec) -> dict[str, str]:
    """The maps of the organs in the box on the grid of `spec`, as a record holds them."""
    if prepared.labels is None:
        return {}
    drawn = draw_silhouettes(prepared.labels, box, spec.grid)
    return {organ: encode_silhouette(silhouette) for organ, silhouette in drawn.items()}
