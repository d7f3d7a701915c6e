"""Place label maps on the grid of their series, voxel by voxel, by geometry."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.volumes import Geometry

Labels = npt.NDArray[np.uint16]

TOLERANCE_VOXELS = 0.1
"""Largest distance between the centres of a mask's voxel and its series' voxel."""


class MaskMisplacedError(Exception):
    """The voxels of a mask do not coincide with those of the series."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Labels on the grid of their file."""

    labels: Labels
    """(slice, row, column); 0 is background."""
    geometry: Geometry
    names: dict[int, str]
    """Organ by label, of the labels whose organ is known."""
    omits_empty_slices: bool = False
    """Whether slices without labels may be absent, as in DICOM SEG (PS3.3 C.8.20.3.1). The first
    and the last slice are then no border of what was marked."""
    label_set: frozenset[str] = frozenset()
    """Organs that are marked wherever the mask shows them; others may be left out."""


@dataclass(frozen=True, slots=True)
class LabelCut:
    """A label that reaches a face of its mask's grid where the series goes on."""

    label: int
    axis: int
    """Axis of the series, in the scanner's order."""
    upper: bool
    """Whether it is the face at the axis' upper end."""


@dataclass(frozen=True, slots=True)
class PlacedMask:
    """Labels on the grid of a series, in the scanner's order."""

    labels: Labels
    names: dict[int, str]
    cuts: frozenset[LabelCut] = frozenset()
    """Where organs may go on beyond the mask."""
    label_set: frozenset[str] = frozenset()
    """Organs that are marked wherever the series shows them: one without voxels is not there."""

    @property
    def digest(self) -> str:
        """XXH3-128 over voxels, names, cuts, and organs of which only the absence is known."""
        state = xxhash.xxh3_128(np.ascontiguousarray(self.labels).data)
        for number, name in sorted(self.names.items()):
            state.update(f"\0{number}={name}".encode())
        for cut in sorted((cut.label, cut.axis, cut.upper) for cut in self.cuts):
            state.update(f"\0cut={cut}".encode())
        for name in sorted(self.label_set.difference(self.names.values())):
            state.update(f"\0absent={name}".encode())
        return state.hexdigest()


@dataclass(frozen=True, slots=True)
class GridFit:
    """Where the grid of a mask lies on that of its series."""

    order: tuple[int, ...]
    """Axis of the mask by axis of the series."""
    flips: tuple[bool, ...]
    """By axis of the series: whether the mask runs the other way."""
    low: tuple[int, ...]
    """First voxel of the series that the mask covers."""
    high: tuple[int, ...]
    """Last voxel of the series that the mask covers."""


def fit_grid(own: Geometry, series: Geometry) -> GridFit:
    """Find the voxels of `series` at which the voxels of the grid `own` lie.

    The axes of `own` may be permuted or flipped against those of `series`, and it may cover a part
    of it. Raises MaskMisplacedError unless all centres agree to TOLERANCE_VOXELS, and if `own`
    reaches beyond the series. So a mask that fits has no more voxels than its series.
    """
    to_series = np.linalg.inv(series.index_to_mm) @ own.index_to_mm
    rotation = np.rint(to_series[:3, :3]).astype(int)
    shift = np.rint(to_series[:3, 3]).astype(int)
    corners = np.array(list(itertools.product(*((0, n - 1) for n in own.shape)))).T
    exact = to_series[:3, :3] @ corners + to_series[:3, 3:]
    rounded = rotation @ corners + shift[:, None]
    distance = float(np.abs(exact - rounded).max())
    if (
        distance > TOLERANCE_VOXELS
        or (np.abs(rotation).sum(0) != 1).any()
        or (np.abs(rotation).sum(1) != 1).any()
    ):
        raise MaskMisplacedError("its voxels are not those of the series")
    low, high = rounded.min(axis=1), rounded.max(axis=1)
    if (low < 0).any() or (high >= series.shape).any():
        raise MaskMisplacedError(
            f"it covers voxels {low.tolist()} to {high.tolist()} of a series of {series.shape}"
        )
    order = np.abs(rotation).argmax(axis=1)  # series axis i is the mask's axis order[i]
    flips = rotation[range(3), order] < 0
    return GridFit(
        tuple(order.tolist()), tuple(flips.tolist()), tuple(low.tolist()), tuple(high.tolist())
    )


def place_mask(mask: Mask, geometry: Geometry) -> PlacedMask:
    """Assign every voxel of `mask` to the voxel of the series at the same position.

    `geometry` is the series' grid. Raises MaskMisplacedError as `fit_grid`.
    """
    fit = fit_grid(mask.geometry, geometry)
    low, high, order = fit.low, fit.high, fit.order
    flip = tuple(slice(None, None, -1 if flipped else None) for flipped in fit.flips)
    covered = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    labels = np.zeros(geometry.shape, np.uint16)
    labels[covered] = mask.labels.transpose(order)[flip]
    free = {order.index(0)} if mask.omits_empty_slices else set()
    cuts = {
        LabelCut(label, axis, upper)
        for axis in set(range(3)) - free
        for upper, index, border in (
            (False, low[axis], 0),
            (True, high[axis], geometry.shape[axis] - 1),
        )
        if index != border
        for label in np.unique(labels.take(index, axis)).tolist()
        if label
    }
    covers_series = all(
        low[axis] == 0 and high[axis] == geometry.shape[axis] - 1 for axis in set(range(3)) - free
    )
    label_set = mask.label_set if covers_series else frozenset[str]()
    return PlacedMask(labels, mask.names, frozenset(cuts), label_set)
