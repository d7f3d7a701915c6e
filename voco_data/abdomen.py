"""The abdomen's z-range and the body's box, from HU alone: no weights, no labels.

The body is the largest piece of tissue once thin things (couch, blankets, tubes) are opened away.
The top is the dome of the liver: going down, the highest slice where tissue stands in the right
chest in a place that was lung further up. The bottom is where the body parts into two thighs.
What a scan does not show, its own end replaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.box import Box, whole
from voco_data.geometry import Triple
from voco_data.volume import AIR_HU

Mask = npt.NDArray[np.bool_]

COARSE_MM = 4.0
"""Profiles are taken on voxels of about this size."""
TISSUE_HU = -300
LUNG_HU = (-980, -400)
OPENING_MM = 12.0
"""Thinner things are not body."""
LUNG_MIN_ML = 150.0
"""Connected aerated tissue of this volume is lung, not bowel gas."""
LUNG_SEEN_MM2 = 3000.0
"""A slice with more lung than this is through the chest."""
DOME_MM2 = 1200.0
"""Tissue of this area, where lung was further up, is the dome and not a vessel."""
MEDIAL_MM = 40.0
"""Nearer to the middle than this stand heart and great vessels, not the top of the dome."""
RUN_IN_MM = 25.0
"""A dome found this near to the uppermost slice has its top outside the scan, or just there."""
THIGH_MM2 = 4000.0
"""Each of the two largest pieces of a slice through the thighs is larger than this."""
BODY_MIN_MM2 = 8000.0
"""A slice with less tissue than this is not through a trunk."""


@dataclass(frozen=True, slots=True)
class _Coarse:
    """The volume sampled to about COARSE_MM; index and millimetres of its voxels."""

    hu: npt.NDArray[np.int16]
    step: tuple[int, int, int]
    spacing_mm: Triple

    @property
    def pixel_mm2(self) -> float:
        return self.spacing_mm[1] * self.spacing_mm[2]


def find_box(hu: npt.NDArray[np.int16], spacing_mm: Triple, *, crop: str, margin_mm: Triple) -> Box:
    """The box that `crop` asks for in a canonical volume (z, y, x) of HU.

    `abdomen`: z-range and body box; `body`: body box over all slices; `none`: the whole volume.
    Without a body the whole volume is returned with confidence 0.
    """
    if crop == "none":
        return whole(_shape(hu))
    coarse = _sample(hu, spacing_mm)
    body = _body(coarse)
    area = body.sum(axis=(1, 2)) * coarse.pixel_mm2
    if area.max(initial=0.0) < BODY_MIN_MM2:
        return whole(_shape(hu))
    if crop == "body":
        present = np.flatnonzero(area > 0)
        bottom, top, confidence, method = int(present[0]), int(present[-1]) + 1, 0.9, "body"
    else:
        bottom, top, confidence, method = _abdomen_range(coarse, body)
    inside = np.any(body[bottom:top], axis=0)
    y, x = (np.flatnonzero(np.any(inside, axis=axis)) for axis in (1, 0))
    start = np.array([bottom, y[0], x[0]]) * coarse.step - np.ceil(
        np.divide(margin_mm, spacing_mm)
    ).astype(int)
    stop = np.array([top, y[-1] + 1, x[-1] + 1]) * coarse.step + np.ceil(
        np.divide(margin_mm, spacing_mm)
    ).astype(int)
    a, b, c = np.maximum(start, 0).tolist()
    d, e, f = np.minimum(stop, hu.shape).tolist()
    return Box((a, b, c), (d, e, f), method, confidence)


def _abdomen_range(coarse: _Coarse, body: Mask) -> tuple[int, int, float, str]:
    """(bottom, top, confidence, method) in coarse slices; top is exclusive."""
    bottom, thighs = _thighs_end(coarse, body)
    lung = _lung(coarse, _fill_holes(body))
    chest = np.flatnonzero(lung.sum(axis=(1, 2)) * coarse.pixel_mm2 > LUNG_SEEN_MM2)
    top, dome = len(body), False
    if len(chest) and chest[-1] > bottom:
        found = _dome(coarse, body, lung)
        if found is None:
            return 0, top, 0.2, "body"  # lungs and no dome: a chest, or lungs we do not understand
        top, dome = found, True
    if top - bottom < 2:
        return 0, len(body), 0.2, "body"
    return bottom, top, 0.5 + 0.25 * dome + 0.15 * thighs, "profile"


def _lung(coarse: _Coarse, filled: Mask) -> Mask:
    """Large connected pieces of aerated tissue inside the body, their vessels closed."""
    low, high = LUNG_HU
    labels, count = ndimage.label(filled & (coarse.hu > low) & (coarse.hu < high))
    if count == 0:
        return np.zeros_like(filled)
    voxel_ml = coarse.pixel_mm2 * coarse.spacing_mm[0] / 1000.0
    large = np.bincount(labels.ravel()) * voxel_ml >= LUNG_MIN_ML
    large[0] = False
    return _close(large[labels], round(8.0 / coarse.spacing_mm[1]))


def _dome(coarse: _Coarse, body: Mask, lung: Mask) -> int | None:
    """First slice above the top of the dome; the scan's end where its top is not in the scan."""
    above = np.logical_or.accumulate(lung[::-1], axis=0)[::-1]
    columns = np.flatnonzero(np.any(body, axis=(0, 1)))
    middle = (columns[0] + columns[-1]) / 2
    lateral = np.arange(lung.shape[2]) < middle - MEDIAL_MM / coarse.spacing_mm[2]
    lost = (above & ~lung & lateral).sum(axis=(1, 2)) * coarse.pixel_mm2
    slices = np.flatnonzero(lost > DOME_MM2)
    if len(slices) == 0:
        return None
    top = int(slices[-1]) + 1
    run_in = RUN_IN_MM / coarse.spacing_mm[0]
    return len(lung) if len(lung) - top < run_in else top


def _thighs_end(coarse: _Coarse, body: Mask) -> tuple[int, bool]:
    """First slice above the thighs, and whether thighs are in the scan."""
    parted = [_two_pieces(plane, coarse.pixel_mm2) for plane in body]
    # Only an unbroken run from the lowest slices counts: arms make pieces further up.
    end = 0
    while end < len(parted) and parted[end]:
        end += 1
    return (end, True) if 0 < end < len(parted) else (0, False)


def _two_pieces(plane: Mask, pixel_mm2: float) -> bool:
    labels, count = ndimage.label(plane)
    if count < 2:
        return False
    areas = np.sort(np.bincount(labels.ravel())[1:])[::-1] * pixel_mm2
    return bool(areas[1] >= max(THIGH_MM2, 0.4 * areas[0]))


def _body(coarse: _Coarse) -> Mask:
    """The largest piece of tissue after an in-plane opening that removes the couch."""
    filled = _fill_holes(coarse.hu > TISSUE_HU)
    labels, count = ndimage.label(_open(filled, round(OPENING_MM / 2 / coarse.spacing_mm[1])))
    if count == 0:
        return np.zeros_like(filled)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax(), bool)


def _fill_holes(mask: Mask) -> Mask:
    """Fill, slice by slice, whatever background the slice's border does not reach."""
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(~mask, in_plane)
    outside = np.zeros(count + 1, bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[edge.ravel()] = True
    outside[0] = False  # label 0 is the mask itself
    return np.asarray(~outside[labels], bool)


def _open(mask: Mask, radius: int) -> Mask:
    return _spread(_spread(mask, radius, grow=False), radius, grow=True)


def _close(mask: Mask, radius: int) -> Mask:
    return _spread(_spread(mask, radius, grow=True), radius, grow=False)


def _spread(mask: Mask, radius: int, *, grow: bool) -> Mask:
    """Dilate or erode in the plane by a square of 2 * radius + 1 voxels."""
    extreme = ndimage.maximum_filter1d if grow else ndimage.minimum_filter1d
    size = 2 * max(1, radius) + 1
    rows = extreme(mask.view(np.uint8), size, axis=1, mode="nearest")
    return np.asarray(extreme(rows, size, axis=2, mode="nearest"), np.uint8).view(bool)


def _sample(hu: npt.NDArray[np.int16], spacing_mm: Triple) -> _Coarse:
    sz, sy, sx = (max(1, round(COARSE_MM / s)) for s in spacing_mm)
    z, y, x = spacing_mm
    picked = np.maximum(hu[::sz, ::sy, ::sx], AIR_HU).astype(np.int16)
    return _Coarse(picked, (sz, sy, sx), (z * sz, y * sy, x * sx))


def _shape(hu: npt.NDArray[np.int16]) -> tuple[int, int, int]:
    z, y, x = hu.shape
    return (z, y, x)
