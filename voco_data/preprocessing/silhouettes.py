"""Silhouettes of organs on the grid of a store, and the organs in 3D, from label maps of series.

An organ's silhouette is the projection of its voxels inside the box. Along an axis that shrinks, a
pixel is set if the centre of a voxel lies in it. Along an axis that grows, it is set if its own
centre lies in a voxel. Either way every voxel sets at least one pixel, every pixel takes one voxel
or more, and no gap opens between voxels that touch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from voco_data.masks import NUMBER_PREFIX, PlacedMask
from voco_data.store import Silhouette
from voco_data.volumes import Box, Index

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class OrganLabels:
    """A label map along the canonical axes."""

    voxels: npt.NDArray[np.uint16]
    """(z, y, x), contiguous."""
    numbers: Mapping[str, frozenset[int]]
    """The labels of every organ whose place is known; none if it is not in the scan."""


def find_known_organs(mask: PlacedMask, present: Collection[str]) -> dict[str, frozenset[int]]:
    """The organs whose place `mask` tells, with their labels; `present` are those with voxels.

    An organ that reaches a face of the mask inside the scan may go on, so its place is not known.
    An organ without voxels is known not to be in the scan only if the mask would mark it.
    """
    cut = {mask.names.get(cut.label) for cut in mask.cuts}
    named = {name for name in mask.names.values() if not name.startswith(NUMBER_PREFIX)}
    known = (named.intersection(present) - cut) | mask.label_set.difference(present)
    return {
        organ: frozenset(number for number, name in mask.names.items() if name == organ)
        for organ in sorted(known)
    }


def draw_silhouettes(labels: OrganLabels, box: Box, grid: Index) -> dict[str, Silhouette]:
    """The silhouettes, on `grid` (Z, Y, X), of the organs of `labels` inside `box`."""
    organ_of_label = np.zeros(int(np.iinfo(np.uint16).max) + 1, np.int16)
    for organ, numbers in enumerate(labels.numbers.values(), start=1):
        organ_of_label[list(numbers)] = organ
    (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
    coronal = np.zeros((len(labels.numbers), z1 - z0, x1 - x0), np.bool_)
    sagittal = np.zeros((len(labels.numbers), z1 - z0, y1 - y0), np.bool_)
    _project(labels.voxels, box.start, organ_of_label, coronal, sagittal)
    return {
        organ: Silhouette(
            _to_pixels(_to_pixels(front, 0, grid[0]), 1, grid[2]),
            _to_pixels(_to_pixels(side, 0, grid[0]), 1, grid[1]),
        )
        for organ, front, side in zip(labels.numbers, coronal, sagittal, strict=True)
    }


def draw_volumes(labels: OrganLabels, box: Box, grid: Index) -> dict[str, Bits]:
    """The organs of `labels` inside `box` on `grid`, (Z, Y, X) each, by the rule of silhouettes.

    The projections of these volumes are the silhouettes of `draw_silhouettes`.
    """
    inside = labels.voxels[tuple(map(slice, box.start, box.stop))]
    volumes = {}
    for organ, numbers in labels.numbers.items():
        drawn: Bits = np.isin(inside, list(numbers))
        for axis, size in enumerate(grid):
            drawn = _to_pixels(drawn, axis, size)
        volumes[organ] = drawn
    return volumes


@numba.njit(nogil=True, cache=True)
def _project(  # type: ignore[no-untyped-def]  # pragma: no cover
    voxels, start, organ_of_label, coronal, sagittal
):
    """Set the pixels (organ, z, x) and (organ, z, y) of every voxel of an organ in the box."""
    z0, y0, x0 = start
    depth, width = coronal.shape[1:]
    height = sagittal.shape[2]
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = voxels[z0 + z, y0 + y, x0 + x]
                if label:
                    organ = organ_of_label[label]
                    if organ:
                        coronal[organ - 1, z, x] = True
                        sagittal[organ - 1, z, y] = True


def _to_pixels(plane: Bits, axis: int, n_pixels: int) -> Bits:
    """`plane` with `n_pixels` along `axis` in place of its voxels, both over the same length."""
    n_voxels = plane.shape[axis]
    pixels = np.arange(n_pixels)
    drawn: Bits
    if n_pixels > n_voxels:  # the voxel that holds the centre of each pixel
        drawn = plane.take((2 * pixels + 1) * n_voxels // (2 * n_pixels), axis)
    else:
        # The first voxel whose centre, (2 i + 1) / 2, is not below the lower edge of each pixel.
        first = -((n_pixels - 2 * pixels * n_voxels) // (2 * n_pixels))
        drawn = np.logical_or.reduceat(plane, first, axis)
    return drawn
