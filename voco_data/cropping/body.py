"""The patient in a coarse volume: the body without couch and tubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.cropping.components import label_components
from voco_data.cropping.sampling import CoarseVolume, Mask

BODY_SLICE_MM = 12.0
"""Distance of the slices on which the body is found: it changes slowly from slice to slice."""
OPENING_MM = 20.0
"""Width of the opening that removes couch, blankets and tubes."""
LIMB_SHARE = 0.5
"""A component with more than this share of the largest one's voxels is body too."""
WHOLE_SHARE = 0.8
"""A slice with less than this share of the measured pixels of its neighbours is blank in part."""
ADULT_MM2 = 60_000.0
"""Area of an adult's body in a slice."""
NORMAL_QUARTILE = 0.6745
"""Half of a normal distribution is within so many standard deviations of its mean."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body in a coarse volume."""

    mask: Mask
    """(Z, Y, X), holes filled: lungs and gas are inside, padding is not."""
    area_mm2: npt.NDArray[np.float64]
    """Area of each slice, shape (Z,)."""
    column: npt.NDArray[np.intp]
    """For each slice, the column with half the body on either side; shape (Z,)."""
    row: npt.NDArray[np.intp]
    """For each slice, the row with half the body in front and half behind; shape (Z,)."""
    noise_hu: float
    """Standard deviation of the noise in soft tissue."""

    @property
    def scale(self) -> float:
        """Size of the body, as a factor of lengths: 1 for the area of an adult."""
        return float(np.sqrt(np.median(self.area_mm2) / ADULT_MM2))


def find_body(coarse: CoarseVolume) -> Body:
    """The largest component of tissue after filling holes and opening in the plane.

    Components of similar size belong to it too: a scan of the legs has two. Without tissue the mask
    is empty.
    """
    stride = max(1, round(BODY_SLICE_MM / coarse.slice_mm))
    sampled = _whole_slices(coarse, stride)
    tissue = fill_holes((coarse.hu[sampled] > coarse.tissue_hu) & coarse.measured[sampled])
    _, y_mm, x_mm = coarse.spacing_mm
    components, count = label_components(
        _open_in_plane(tissue, OPENING_MM / y_mm, OPENING_MM / x_mm)
    )
    sizes = np.bincount(components[:, ::2, ::2].ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = sizes >= LIMB_SHARE * sizes.max()
    keep[0] = False
    is_body = keep[components]
    mask = np.repeat(is_body, stride, axis=0)[: len(coarse.hu)] & coarse.measured
    columns, rows = mask.sum(axis=1), mask.sum(axis=2)
    return Body(
        mask=mask,
        area_mm2=columns.sum(axis=1) * coarse.pixel_mm2,
        column=_median_index(columns),
        row=_median_index(rows),
        noise_hu=_noise_hu(coarse.hu[sampled], mask[sampled], coarse.tissue_hu),
    )


def _whole_slices(coarse: CoarseVolume, stride: int) -> npt.NDArray[np.intp]:
    """The first of every `stride` slices, or the one with most pixels if that is blank in part."""
    pixels = coarse.measured_pixels
    first = np.arange(0, len(pixels), stride)
    groups = np.pad(pixels, (0, len(first) * stride - len(pixels))).reshape(-1, stride)
    is_blank = groups[:, 0] < WHOLE_SHARE * groups.max(axis=1)
    return np.asarray(first + np.where(is_blank, groups.argmax(axis=1), 0), np.intp)


def fill_holes(mask: Mask) -> Mask:
    """Fill, slice by slice, the background that is not connected to the slice's border."""
    labels, count = label_components(~mask, across_slices=False)
    outside = np.zeros(count + 1, bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[edge.ravel()] = True
    outside[0] = False  # label 0 is the mask itself
    return np.asarray(~outside[labels], bool)


def _noise_hu(hu: npt.NDArray[np.int16], mask: Mask, tissue_hu: int) -> float:
    """Noise from the median difference of pixels two columns apart, which edges hardly change."""
    near, far = hu[:, ::4, :-2:2], hu[:, ::4, 2::2]
    soft = mask[:, ::4, :-2:2] & (near > tissue_hu) & (far > tissue_hu)
    if not soft.any():
        return 0.0
    return float(np.median(np.abs(near[soft] - far[soft])) / (NORMAL_QUARTILE * np.sqrt(2.0)))


def _median_index(counts: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """For each row of (Z, N) counts, the index where half of the sum is reached."""
    running = counts.cumsum(axis=1)
    return np.asarray((2 * running >= running[:, -1:]).argmax(axis=1), np.intp)


def _open_in_plane(mask: Mask, rows: float, columns: float) -> Mask:
    """Open in the plane by a rectangle of about `rows` x `columns` pixels, odd, at least 3.

    Pixels beyond the image's border count as those at the border.
    """
    radii = tuple(max(1, round((size - 1) / 2)) for size in (rows, columns))
    eroded = mask
    for axis, radius in zip((1, 2), radii, strict=True):
        eroded = ~_dilate(~eroded, axis, radius)
    for axis, radius in zip((1, 2), radii, strict=True):
        eroded = _dilate(eroded, axis, radius)
    return eroded


def _dilate(mask: Mask, axis: int, radius: int) -> Mask:
    """Dilate along one axis by `radius` pixels to either side."""
    grown = mask.copy()
    target, source = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
    for shift in range(1, radius + 1):
        target[shift:] |= source[:-shift]
        target[:-shift] |= source[shift:]
    return grown
