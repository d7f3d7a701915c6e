"""The lower end of the pelvis: where, going down, only the two femora are left of the bones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voco_data.body import IN_PLANE, Body, Coarse, Mask

BONE_HU = 180
SMOOTH_MM = 5.0
"""Larger pixels are not averaged."""
SPINE_HALF_MM = 30.0
"""The spine stands in a strip of this half width about the body's middle, in the back half."""
SPINE_MM2 = 200.0
"""Least area of bone there."""
SPINE_GAP_MM = 24.0
"""A disc, or a slice of thin bone, may interrupt the spine for so long."""
SPINE_MIN_MM = 50.0
"""A shorter run of such slices is no spine."""
BELOW_SPINE_MM = 220.0
"""The ischium ends nearer to the sacrum than this in the tallest."""
DROP_MM = (25.0, 180.0)
"""Least and largest height from the end of the spine down to the end of the ischium."""
FEMUR_MM2 = 60.0
"""Least area of a femur's bone."""
FEMUR_WIDTH_MM = 75.0
"""A wider piece is no femur."""
ISCHIUM_MM2 = 150.0
"""Bone of this area medial of a femur is the ischium, where the femora are ADULT_MM apart."""
ADULT_MM = 220.0
BESIDE_MM = 10.0
"""The lesser trochanter stands out from the shaft by about this much."""
THIGHS = 5
"""The femora are where the median of so many slices below has them."""
PELVIS_SHARE = 0.7
"""So many of the slices just above the end of the pelvis must show it too."""
THIGH_MM2 = 4000.0
"""Each of the two largest pieces of a slice through parted thighs is larger than this."""


@dataclass(frozen=True, slots=True)
class Pelvis:
    """What the scan shows of spine and pelvis, in coarse slices."""

    spine: tuple[int, int] | None
    """First and last + 1 slice of the spine, sacrum included; None without a spine."""
    floor: int | None
    """Lowest slice through the ischium; None where it is not seen to end."""


def find_pelvis(coarse: Coarse, body: Body) -> Pelvis:
    """The spine's run of slices, and the lower end of the ischium under it.

    The search goes up from the thighs, where each side shows one bone. It ends where bone stands
    medial of the femora and not in front of them: the ischial tuberosities. Vessels with contrast
    are in front.
    """
    spine = _spine(coarse, body)
    if spine is None:
        return Pelvis(None, None)
    return Pelvis(spine, _ischium(coarse, body, spine[0]))


def thighs_end(coarse: Coarse, body: Body) -> int | None:
    """First slice above the parted thighs at the scan's lower end; None without."""
    end = 0
    while end < len(body.mask) and _two_pieces(body.mask[end], coarse.pixel_mm2):
        end += 1
    return end if 0 < end < len(body.mask) else None


def _spine(coarse: Coarse, body: Body) -> tuple[int, int] | None:
    """The longest run of slices with bone at the back of the body's middle."""
    _, height, width = coarse.hu.shape
    half = max(1, round(SPINE_HALF_MM / coarse.spacing_mm[2]))
    seen = np.zeros(len(coarse.hu), bool)
    for index, (row, column) in enumerate(zip(body.row, body.column, strict=True)):
        strip = coarse.hu[index, row:height, max(0, column - half) : column + half + 1]
        inside = body.mask[index, row:height, max(0, column - half) : column + half + 1]
        seen[index] = ((strip > BONE_HU) & inside).sum() * coarse.pixel_mm2 > SPINE_MM2
    gap = max(1, round(SPINE_GAP_MM / coarse.slice_mm))
    runs, count = ndimage.label(ndimage.binary_closing(np.pad(seen, gap), np.ones(gap + 1)))
    if count == 0:
        return None
    longest = np.bincount(runs)[1:].argmax() + 1
    where = np.flatnonzero((runs == longest)[gap:-gap] & seen)
    first, last = int(where[0]), int(where[-1]) + 1
    least = min(SPINE_MIN_MM / coarse.slice_mm, 0.8 * len(seen))
    return (first, last) if last - first >= least else None


def _ischium(coarse: Coarse, body: Body, sacrum: int) -> int | None:
    """Lowest slice of the ischium, below the slice `sacrum` where the spine ends."""
    low = max(0, sacrum - round(BELOW_SPINE_MM / coarse.slice_mm))
    bone = _bone(coarse, body, slice(low, sacrum))
    pieces, count = ndimage.label(bone, IN_PLANE)
    if count == 0:
        return None
    thighs: list[_Femora] = []
    seen: list[bool] = []
    for index, plane in enumerate(pieces):
        femora = _femora(plane, body.column[low + index], coarse)
        if femora is not None and not thighs:
            thighs.append(femora)
        if not thighs:
            return None  # the lowest slice is no thigh: the ischium ends below the scan
        seen.append(_has_ischium(plane > 0, _typical(thighs[-THIGHS:]), coarse))
        if femora is not None and not seen[-1]:
            thighs.append(femora)
    return _first_lasting(seen, low, sacrum, coarse)


def _bone(coarse: Coarse, body: Body, slices: slice) -> Mask:
    """Bone in the mean of 3 x 3 pixels: less noise, and the shell closes over soft marrow."""
    hu = coarse.hu[slices]
    if max(coarse.spacing_mm[1:]) <= SMOOTH_MM:
        hu = hu.copy()  # nine times the highest HU of CT still fits into int16
        hu[:, 1:-1] = coarse.hu[slices, :-2] + coarse.hu[slices, 1:-1] + coarse.hu[slices, 2:]
        rows = hu[:, 1:-1].copy()
        hu[:, 1:-1, 1:-1] = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) // 9
    return np.asarray((hu > BONE_HU) & body.mask[slices], bool)


def _typical(femora: list[_Femora]) -> _Femora:
    """The median: noise may break a femur's ring in a slice or two."""
    right, left = (float(np.median([f.inner[side] for f in femora])) for side in (0, 1))
    rows = tuple(float(np.median([f.row[side] for f in femora])) for side in (0, 1))
    return _Femora((round(right), round(left)), (rows[0], rows[1]))


@dataclass(frozen=True, slots=True)
class _Femora:
    """Inner edges (columns) and middles (rows) of the right and the left femur in a slice."""

    inner: tuple[int, int]
    row: tuple[float, float]


def _femora(plane: npt.NDArray[np.int32], middle: int, coarse: Coarse) -> _Femora | None:
    """The largest piece of bone on each side of the middle, where both may be femora."""
    inner, rows = [], []
    for half, offset in ((plane[:, :middle], 0), (plane[:, middle:], middle)):
        areas = np.bincount(half.ravel(), minlength=2)
        areas[0] = 0
        piece = int(areas.argmax())
        y, x = np.nonzero(half == piece)
        width_mm = (x.max() - x.min() + 1) * coarse.spacing_mm[2] if areas[piece] else 0.0
        if areas[piece] * coarse.pixel_mm2 < FEMUR_MM2 or width_mm > FEMUR_WIDTH_MM:
            return None
        inner.append(int(x.min() if offset else x.max()) + offset)
        rows.append(float(y.mean()))
    return _Femora((inner[0], inner[1]), (rows[0], rows[1]))


def _has_ischium(bone: Mask, femora: _Femora, coarse: Coarse) -> bool:
    """Whether bone stands between the femora, beside or behind one of them."""
    beside = max(1, round(BESIDE_MM / coarse.spacing_mm[2]))
    above = round(BESIDE_MM / coarse.spacing_mm[1])
    right, left = femora.inner
    middle = (right + left + 1) // 2
    apart = min(1.0, (left - right) * coarse.spacing_mm[2] / ADULT_MM)
    for columns, row in (
        (slice(right + beside + 1, middle), femora.row[0]),
        (slice(middle, max(middle, left - beside)), femora.row[1]),
    ):
        part = bone[max(0, int(row) - above) :, columns]
        if part.sum() * coarse.pixel_mm2 >= ISCHIUM_MM2 * apart**2:
            return True
    return False


def _first_lasting(seen: list[bool], low: int, sacrum: int, coarse: Coarse) -> int | None:
    """The first slice with the ischium, where it goes on above and stands right to the spine."""
    above = max(2, round(40.0 / coarse.slice_mm))
    for index, here in enumerate(seen):
        if here and np.mean(seen[index : index + above]) >= PELVIS_SHARE:
            drop_mm = (sacrum - low - index) * coarse.slice_mm
            fits = index > 0 and DROP_MM[0] <= drop_mm <= DROP_MM[1]
            return low + index if fits else None
    return None


def _two_pieces(plane: Mask, pixel_mm2: float) -> bool:
    labels, count = ndimage.label(plane)
    if count < 2:
        return False
    areas = np.sort(np.bincount(labels.ravel())[1:])[::-1] * pixel_mm2
    return bool(areas[1] >= max(THIGH_MM2, 0.4 * areas[0]))
