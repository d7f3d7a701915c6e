"""Resample tilted and oblique volumes onto the canonical axes.

A gantry tilt shears the grid, and an oblique reformat rotates it. Both need an affine map from the
canonical grid to the scanner's index, and linear interpolation.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.limits import check_voxels
from voco_data.volumes import AIR_HU, CANONICAL_AXES, Geometry, Volume, nearest_axes

ROUNDING_VOXELS = 1e-6
"""Rounding error of an extent that does not make it one voxel longer."""


def to_canonical_grid(volume: Volume) -> Volume:
    """Resample `volume` to the smallest canonical grid around it; voxels outside the scan are air.

    Every canonical axis has the spacing of the scanner's nearest axis. Slices are mixed, so there
    are no instance numbers. Adds the flag `tilt_corrected` or `reoriented`.
    """
    native = volume.geometry
    grid = canonical_grid(native)
    check_voxels(grid.shape)
    to_native = np.linalg.inv(native.index_to_mm) @ grid.index_to_mm
    hu: npt.NDArray[np.int16] = np.empty(grid.shape, np.int16)
    # SciPy rounds to the nearest integer where it writes integers.
    ndimage.affine_transform(
        volume.hu,
        to_native[:3, :3],
        to_native[:3, 3],
        output=hu,
        order=1,
        mode="constant",
        cval=AIR_HU,
    )
    flag = "tilt_corrected" if native.is_sheared else "reoriented"
    return Volume(
        hu=hu,
        geometry=grid,
        instance_numbers=(),
        transfer_syntax=volume.transfer_syntax,
        flags=(*volume.flags, flag),
    )


def labels_to_canonical_grid(
    labels: npt.NDArray[np.uint16], native: Geometry, grid: Geometry
) -> npt.NDArray[np.uint16]:
    """Resample labels from `native` to `grid`: the label of the nearest voxel, 0 outside."""
    to_native = np.linalg.inv(native.index_to_mm) @ grid.index_to_mm
    out: npt.NDArray[np.uint16] = np.empty(grid.shape, np.uint16)
    ndimage.affine_transform(
        labels, to_native[:3, :3], to_native[:3, 3], output=out, order=0, mode="constant"
    )
    return out


def canonical_grid(native: Geometry) -> Geometry:
    """The smallest grid along the canonical axes that covers the corners of `native`."""
    permutation, _ = nearest_axes(native.axes)
    spacing = np.array([native.spacing_mm[axis] for axis in permutation])
    corners = np.array(list(itertools.product(*((0, n - 1) for n in native.shape)))).T
    points = native.index_to_mm @ np.vstack([corners, np.ones(8)])
    canonical_mm = np.asarray(CANONICAL_AXES) @ points[:3]
    low, high = canonical_mm.min(axis=1), canonical_mm.max(axis=1)
    z, y, x = (math.floor(n + ROUNDING_VOXELS) + 1 for n in (high - low) / spacing)
    sz, sy, sx = spacing.tolist()
    oz, oy, ox = low.tolist()
    return Geometry((z, y, x), (sz, sy, sx), (ox, oy, oz), CANONICAL_AXES)
