"""The side of the largest solid organ below the dome, which is the liver.

Eroding soft tissue leaves organs that are thick in every direction: bowel, vessels and muscles of
the wall vanish, and the heart lies above the dome.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.cropping.body import Body
from voco_data.cropping.components import label_components
from voco_data.cropping.lungs import Chest, fitted_middle
from voco_data.cropping.sampling import CoarseVolume

BELOW_DOME_MM = 250.0
"""Organs are searched from the dome, or the top of the scan, to this depth."""
BLOCK_MM = 8.0
"""HU are averaged over blocks of this size, because of noise."""
SOLID_HU = (15.0, 200.0)
"""Means of blocks inside an organ, with and without contrast medium."""
LOWEST_HU, HIGHEST_HU = -200, 300
"""HU are clipped to this range before they are averaged."""
ERODED_MM = 14.0
"""Depth by which solid tissue is eroded."""


@dataclass(frozen=True, slots=True)
class SolidTissue:
    """What erosion leaves of the organs of the upper abdomen."""

    left_share: float
    """Share of it in the left half of the body; 0.5 if nothing is left."""
    largest_ml: float
    """Volume of the largest connected part."""
    largest_left_mm: float
    """Distance of the centre of that part from the body's middle, positive to the left."""


def find_solid_tissue(coarse: CoarseVolume, body: Body, chest: Chest) -> SolidTissue:
    """The thick solid organs from the dome, if there is one, to 250 mm below it."""
    top = chest.either_dome if chest.either_dome >= 0 else len(coarse.hu)
    slices = slice(max(0, top - round(BELOW_DOME_MM / coarse.slice_mm)), top)
    spacing_mm = np.array((coarse.slice_mm, *coarse.spacing_mm[1:]))
    block = np.maximum(1, np.round(BLOCK_MM / spacing_mm)).astype(int)
    block_mm = block * spacing_mm
    mean_hu = _block_means(coarse.hu[slices], body.mask[slices], block)
    core = _erode((mean_hu > SOLID_HU[0]) & (mean_hu < SOLID_HU[1]), block_mm)
    labels, count = label_components(core)
    if not count:
        return SolidTissue(left_share=0.5, largest_ml=0.0, largest_left_mm=0.0)
    middle = fitted_middle(body)[slices][: len(core) * block[0]].reshape(len(core), -1).mean(axis=1)
    place_mm = (np.arange(core.shape[2]) + 0.5) * block_mm[2]
    left_mm = place_mm - (middle[:, None] + 0.5) * spacing_mm[2]
    n_voxels = np.bincount(labels.ravel())[1:]
    largest = (labels == n_voxels.argmax() + 1).sum(axis=1)
    return SolidTissue(
        left_share=float((core.sum(axis=1) * (left_mm > 0)).sum() / core.sum()),
        largest_ml=float(n_voxels.max() * block_mm.prod() / 1000.0),
        largest_left_mm=float((largest * left_mm).sum() / largest.sum()),
    )


def _block_means(
    hu: npt.NDArray[np.int16], mask: npt.NDArray[np.bool_], block: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Means over blocks (z, y, x) of clipped HU, `LOWEST_HU` outside the mask.

    Voxels beyond the last whole block are left out.
    """
    shape = hu.shape // block
    total = np.zeros(shape, np.int32)
    for offset in np.ndindex(*block):
        part = tuple(
            slice(first, first + n * step, step)
            for first, n, step in zip(offset, shape, block, strict=True)
        )
        clipped = hu[part].clip(LOWEST_HU, HIGHEST_HU)
        clipped[~mask[part]] = LOWEST_HU
        total += clipped
    return np.asarray(total / block.prod(), np.float32)


def _erode(
    mask: npt.NDArray[np.bool_], spacing_mm: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Erode a mask (z, y, x) by a box. The first and last slice are no border of an organ."""
    for axis, size_mm in enumerate(spacing_mm):
        radius = max(1, round(ERODED_MM / size_mm))
        lines = np.moveaxis(mask, axis, 0)
        length = len(lines)
        padded = np.pad(lines, [(radius, radius), (0, 0), (0, 0)], constant_values=axis == 0)
        eroded = padded[:length].copy()
        for first in range(1, 2 * radius + 1):
            eroded &= padded[first : first + length]
        mask = np.moveaxis(eroded, 0, axis)
    return mask
