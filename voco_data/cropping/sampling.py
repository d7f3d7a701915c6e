"""A coarse sample of a CT volume: what was measured in it, and which HU are tissue, lung and air.

Padding is not tissue and not lung: blank slices, blank parts of slices, the wedges beside a tilted
scan after it was straightened. The thresholds follow the lowest HU of the file, because archives
are exported with HU clipped to a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from voco_data.volumes import AIR_HU, Triple

Mask = npt.NDArray[np.bool_]

COARSE_MM = 4.0
"""Size of the voxels on which anatomy is searched."""
HIGHEST_HU = 3071
"""Higher HU, those of metal, are lowered to it."""
TISSUE_HU = -300
"""Tissue is above, in files that are not clipped above it."""
LUNG_MAX_HU = -450
"""Lung is below, likewise."""
AIR_MAX_HU = -900
"""Air of a file that is not clipped is below."""
CLIPPED_SHARE = 0.03
"""If more of the voxels than this have the lowest HU of the file, it is clipped there."""
BELOW_CLIP_SHARE = 0.002
"""Fewer voxels than this are below the HU at which a file is clipped."""
FLOOR_HU, FLOOR_SHARE, FLOOR_RATIO = 20, 0.15, 3
"""A file that was resampled or compressed after clipping has this share of its voxels in the lowest
FLOOR_HU, and FLOOR_RATIO times as many as in the next ones. Fat without air rises slowly."""
FLOOR_ERROR_SHARE = 0.1
"""Share of the voxels that resampling may leave below the HU at which a file was clipped."""
FLOOR_PERCENTAGE = 95
"""Of the voxels in the lowest FLOOR_HU, those that are air."""
ABOVE_CLIP_HU = 10
"""Tissue of a clipped file is at least so far above its lowest HU."""
FAT_HU = -140
"""A file that is clipped above does not tell fat from air."""
FILL_HU = -50
"""A file is not clipped above this HU: it would hold neither air nor fat."""
BLANK_SHARE = 0.05
"""A slice with less than this share of the largest slice's tissue shows nothing of the patient."""
PARTIAL_SHARE, PARTIAL_MM = 0.7, 60.0
"""At an end of the scan, slices with less than this share of the tissue of the next slice are blank
in part, or show the couch alone. Tissue changes less from slice to slice."""
PADDED_SHARE = 0.9
"""A slice of which less was measured, of the median of the slices, is padding in part. Such slices
at an end, as of a straightened tilt, may show organs; others that are left out show air."""
PADDING_MM = 20.0
"""Least length of a run of equal pixels, from the border of the image on, that is padding."""


@dataclass(frozen=True, slots=True)
class CoarseVolume:
    """A volume (z, y, x) sampled to about COARSE_MM, not averaged: thin bone keeps its HU.

    Slices at the ends that are blank, or blank in part, are left out. A blank slice between others
    is a copy of the one below.
    """

    hu: npt.NDArray[np.int16]
    """(Z, Y, X)."""
    step: tuple[int, int, int]
    """Voxels of the volume from one sample to the next."""
    spacing_mm: Triple
    measured: Mask
    """(Z, Y, X): not padding. Evenly black air around the patient may count as padding."""
    measured_pixels: npt.NDArray[np.int64]
    """Measured pixels of each slice, on every other row and column, (Z,)."""
    first: int = 0
    """Slices left out at the lower end."""
    outer: tuple[int, int] = (0, 0)
    """First and last + 1 sample of the scan that may show an organ. Of the slices left out they
    contain those that are padding in part, such as the ends of a straightened tilt."""
    clipped_at: int | None = None
    """The HU of air, if the file's HU were clipped above those of air."""

    @property
    def pixel_mm2(self) -> float:
        """Area of a pixel."""
        return self.spacing_mm[1] * self.spacing_mm[2]

    @property
    def slice_mm(self) -> float:
        """Distance between slices."""
        return self.spacing_mm[0]

    @property
    def tissue_hu(self) -> int:
        """Tissue is above."""
        return _tissue_hu(self.clipped_at)

    @property
    def lung_hu(self) -> int:
        """Lung is below."""
        return LUNG_MAX_HU if self.clipped_at is None else max(LUNG_MAX_HU, self.clipped_at + 1)

    @property
    def is_ambiguous(self) -> bool:
        """Whether fat cannot be told from air."""
        return self.clipped_at is not None and self.clipped_at > FAT_HU

    def range_in_volume(self, bottom: int, top: int) -> tuple[int, int]:
        """Slices of the volume from coarse slice `bottom` to `top` (exclusive).

        At an end of the scan, they are those of `outer`. Slices between the last blank sample and
        the first measured one may show the patient.
        """
        step = self.step[0]
        low, high = self.first + bottom, self.first + top
        if bottom == 0:
            low = self.outer[0]
        if top == len(self.hu):
            high = self.outer[1]
        is_below_blank = bottom == 0 < low
        return (low * step - step + 1 if is_below_blank else low * step), high * step


def sample_volume(hu: npt.NDArray[np.int16], spacing_mm: Triple) -> CoarseVolume:
    """Every n-th voxel along each axis; padding is raised to air, metal lowered to HIGHEST_HU."""
    sz, sy, sx = (max(1, round(COARSE_MM / s)) for s in spacing_mm)
    z, y, x = (s * n for s, n in zip(spacing_mm, (sz, sy, sx), strict=True))
    sampled = hu[::sz, ::sy, ::sx].copy()
    np.clip(sampled, AIR_HU, HIGHEST_HU, out=sampled)
    clipped_at = _find_clipping(sampled)
    tissue_hu = _tissue_hu(clipped_at)
    runs = (max(3, round(PADDING_MM / y)), max(3, round(PADDING_MM / x)))
    measured = np.ones(sampled.shape, np.bool_)
    tissue, pixels = _mark_padding(sampled, tissue_hu, runs[0], runs[1], measured)
    shown = np.flatnonzero(tissue > BLANK_SHARE * tissue.max(initial=0))
    step, spacing = (sz, sy, sx), (z, y, x)
    if not len(shown):
        whole = (0, len(sampled))
        return CoarseVolume(sampled, step, spacing, measured, pixels, 0, whole, clipped_at)
    n_below = _partial_slices(tissue[shown], z)
    n_above = _partial_slices(tissue[shown[::-1]], z)
    shown = shown[n_below : len(shown) - n_above]
    first, last = int(shown[0]), int(shown[-1])
    is_padded = (tissue > 0) & (pixels < PADDED_SHARE * np.median(pixels[shown]))
    outer = (
        first - _run_length(is_padded[:first][::-1]),
        last + 1 + _run_length(is_padded[last + 1 :]),
    )
    if len(shown) == last + 1 - first:  # none between others is blank
        kept = slice(first, last + 1)
        sampled, measured, pixels = sampled[kept], measured[kept], pixels[kept]
    else:
        below = shown[np.searchsorted(shown, np.arange(first, last + 1), side="right") - 1]
        sampled, measured, pixels = sampled[below], measured[below], pixels[below]
    return CoarseVolume(sampled, step, spacing, measured, pixels, first, outer, clipped_at)


def _partial_slices(tissue: npt.NDArray[np.int64], slice_mm: float) -> int:
    """Number of slices, from the first on, that are blank in part: up to a jump of the tissue."""
    ends = tissue[: max(2, round(PARTIAL_MM / slice_mm))]
    jumps = np.flatnonzero(ends[:-1] < PARTIAL_SHARE * ends[1:])
    return int(jumps[-1]) + 1 if len(jumps) else 0


def _run_length(values: npt.NDArray[np.bool_]) -> int:
    """Number of values, from the first on, that are true."""
    return int(np.argmin(np.append(values, False)))


def _tissue_hu(clipped_at: int | None) -> int:
    return TISSUE_HU if clipped_at is None else max(TISSUE_HU, clipped_at + ABOVE_CLIP_HU)


def _find_clipping(hu: npt.NDArray[np.int16]) -> int | None:
    """The lowest HU of the file, if many voxels have it and it is not that of air; else None.

    After resampling or compression it is the upper end of the values that were the lowest.
    AIR_HU may be padding that was added after clipping, and does not count.
    """
    counts = np.bincount(hu[::4, ::2, ::2].ravel() - np.int16(AIR_HU), minlength=2)[1:]
    total = int(counts.sum())
    lowest = int(np.argmax(counts.cumsum() > BELOW_CLIP_SHARE * total))
    most_frequent = int(counts.argmax())
    is_floor = (
        counts[: most_frequent + 1].sum() <= FLOOR_ERROR_SHARE * total + counts[most_frequent]
    )
    if is_floor and counts[most_frequent] > FLOOR_SHARE * total:
        lowest = most_frequent  # resampling by splines leaves lower values at edges
    floor = counts[lowest : lowest + FLOOR_HU]
    n_floor = int(floor.sum())
    if floor[:1].sum() < n_floor / 2:
        n_next = int(counts[lowest + FLOOR_HU : lowest + 2 * FLOOR_HU].sum())
        if n_floor <= FLOOR_SHARE * total or n_floor < FLOOR_RATIO * n_next:
            return None
        lowest += int(np.searchsorted(floor.cumsum(), n_floor * FLOOR_PERCENTAGE / 100))
    elif n_floor <= CLIPPED_SHARE * total:
        return None
    value = lowest + 1 + AIR_HU
    return value if total and AIR_MAX_HU < value <= FILL_HU else None


@numba.njit(nogil=True, cache=True)
def _mark_padding(hu, air_hu, rows, columns, measured):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Clear `measured` where there is padding; tissue and measured pixels of each slice, (Z,).

    They are counted on every other row and column.

    Padding is a run of one value no higher than `air_hu`, from the border of the image along a row
    or a column, at least `columns` or `rows` long; or, for any value, whole rows or columns of the
    border's value from the border on.
    """
    depth, height, width = hu.shape
    tissue, pixels = np.zeros(depth, np.int64), np.zeros(depth, np.int64)
    for z in range(depth):
        plane, seen = hu[z], measured[z]
        for y in range(height):
            value = plane[y, 0]
            if value <= air_hu:
                run = 1
                while run < width and plane[y, run] == value:
                    run += 1
                if run >= columns:
                    seen[y, :run] = False
            value = plane[y, width - 1]
            if value <= air_hu:
                run = 1
                while run < width and plane[y, width - 1 - run] == value:
                    run += 1
                if run >= columns:
                    seen[y, width - run :] = False
        for x in range(width):
            value = plane[0, x]
            if value <= air_hu:
                run = 1
                while run < height and plane[run, x] == value:
                    run += 1
                if run >= rows:
                    seen[:run, x] = False
            value = plane[height - 1, x]
            if value <= air_hu:
                run = 1
                while run < height and plane[height - 1 - run, x] == value:
                    run += 1
                if run >= rows:
                    seen[height - run :, x] = False
        top = _blank_lines(plane)
        seen[:top] = False
        bottom = _blank_lines(plane[::-1])
        seen[height - bottom :] = False
        left = _blank_lines(plane.T)
        seen[:, :left] = False
        right = _blank_lines(plane.T[::-1])
        seen[:, width - right :] = False
        for y in range(0, height, 2):
            for x in range(0, width, 2):
                if seen[y, x]:
                    pixels[z] += 1
                    if plane[y, x] > air_hu:
                        tissue[z] += 1
    return tissue, pixels


@numba.njit(nogil=True, cache=True)
def _blank_lines(plane):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Number of lines, from the first on, whose pixels all have the value of the first pixel."""
    value = plane[0, 0]
    for line in range(plane.shape[0]):
        for pixel in range(plane.shape[1]):
            if plane[line, pixel] != value:
                return line
    return plane.shape[0]
