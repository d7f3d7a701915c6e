"""A label map placed on its series by geometry, voxel on voxel, or not at all."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.volumes.geometry import Geometry

Labels = npt.NDArray[np.uint16]

PLACE_TOLERANCE = 0.1
"""Largest distance, in voxels, between the centres of a mask's and its series' voxels."""


class MaskMisplacedError(Exception):
    """A mask's voxels are not those of the series. Its text says how far off they are."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Labels in a grid of their own, as their file has them."""

    labels: Labels
    """(slice, row, column); 0 is background."""
    geometry: Geometry
    names: dict[int, str]
    """What the numbers mean, as far as it is known."""


@dataclass(frozen=True, slots=True)
class PlacedMask:
    """Labels on the grid of a series, in the scanner's order."""

    labels: Labels
    names: dict[int, str]

    @property
    def digest(self) -> str:
        """XXH3-128 over voxels and names: what drove a box that this mask drove."""
        state = xxhash.xxh3_128(np.ascontiguousarray(self.labels).data)
        for number, name in sorted(self.names.items()):
            state.update(f"\0{number}={name}".encode())
        return state.hexdigest()


def place(mask: Mask, on: Geometry) -> PlacedMask:
    """Put every voxel of `mask` on the voxel of the series that lies at the same place.

    The mask's axes may be permuted or flipped against the series', and it may cover a part of it.
    Raises MaskMisplacedError unless its grid is the series' grid, to PLACE_TOLERANCE of a voxel.
    """
    to_series = np.linalg.inv(on.index_to_mm) @ mask.geometry.index_to_mm
    turn = np.rint(to_series[:3, :3]).astype(int)
    shift = np.rint(to_series[:3, 3]).astype(int)
    corners = np.array(list(itertools.product(*((0, n - 1) for n in mask.labels.shape)))).T
    exact = to_series[:3, :3] @ corners + to_series[:3, 3:]
    whole = turn @ corners + shift[:, None]
    off = float(np.abs(exact - whole).max())
    if (
        off > PLACE_TOLERANCE
        or (np.abs(turn).sum(0) != 1).any()
        or (np.abs(turn).sum(1) != 1).any()
    ):
        raise MaskMisplacedError("its voxels are not those of the series")
    low, high = whole.min(axis=1), whole.max(axis=1)
    if (low < 0).any() or (high >= on.shape).any():
        raise MaskMisplacedError(
            f"it covers voxels {low.tolist()} to {high.tolist()} of a series of {on.shape}"
        )
    order = np.abs(turn).argmax(axis=1)  # series axis i is the mask's axis order[i]
    turned = mask.labels.transpose(order)
    backwards = turn[range(3), order] < 0
    turned = turned[tuple(slice(None, None, -1) if b else slice(None) for b in backwards)]
    labels = np.zeros(on.shape, np.uint16)
    labels[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = turned
    return PlacedMask(labels, mask.names)
