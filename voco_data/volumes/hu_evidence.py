"""Whether the values of a volume can be HU, from a sample of its voxels.

HU are fixed by physics: air is -1000, fat about -100, soft tissue 0 to 80, up to 150 with contrast
medium; hardly any voxel is denser than bone. So a wrong slope, a missing or repeated intercept, an
image of 8 bits, noise, a damaged code stream and values that wrapped around all show in the
histogram, or in neighbouring voxels. Values that scanners and exports write on purpose are no
faults: padding outside the field of view (one value far below air), and HU that are clipped at both
ends (one value at each end).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

SOFT_TISSUE_HU = (-150, 150)
"""Bounds of fat, water, muscle and organs, most of them with contrast medium too."""
LIGHT_HU = (-1200, -50)
"""Exclusive bounds of air, lung and fat."""
TISSUE_HU = -300
"""Lower HU are air and lung."""
DENSE_HU = 1500
"""Little of a body is denser: cortical bone, teeth, metal."""
METAL_HU = 2500
HIGHEST_HU = 3100
"""Scanners of 12 bits end at 3071 HU. Higher ones are metal, on an extended scale."""
LUNG_HU = -800
"""Lower HU are air, or the lightest parts of lungs."""
LOWEST_HU = -1300
"""Air with the noise of a low dose ends here. Lower values are padding, or no HU."""

MIN_LIGHT_SHARE = 0.001
"""Of all voxels, air, lung or fat."""
MIN_SOFT_SHARE = 0.002
"""Of the voxels that are not padding, soft tissue. A newborn in a wide field of view has 0.01."""
BODY_HU = -900
"""Lower HU are air, around the body and in it."""
MIN_SOFT_OF_BODY = 0.04
"""Of the voxels above BODY_HU, soft tissue. Bone and metal alone reach 0.03 if the intercept is
applied twice."""
MIN_SOFT_OF_TISSUE = 0.25
"""Of the tissue (above TISSUE_HU), soft tissue."""
MAX_LOW_SHARE = 0.05
"""Of the voxels that are not padding, those below LOWEST_HU."""
MAX_DENSE_OF_TISSUE = 0.25
"""Of the tissue, those above DENSE_HU."""
MAX_HIGH_SHARE = 0.1
"""Of all voxels, those above HIGHEST_HU."""
MAX_SATURATED_SHARE = 0.01
"""Of all voxels, those at the upper end of int16: more is no metal."""
MAX_CONSTANT_SHARE = 0.998
"""Largest share of one value."""
SHIFTED_HU = (800, 1150)
"""Soft tissue without its intercept."""
MAX_SHIFTED_OF_TISSUE = 0.15
CANCELLOUS_HU = (250, 600)
"""Any body has more bone of this density than in SHIFTED_HU, and so has contrast medium."""
EMPTY_HU = (-780, -250)
"""Between lung and fat. The lungs of a child, or in expiration, spread over more HU than this."""
EMPTY_WIDTH_HU = 40
MAX_EMPTY_SHARE = 0.2
"""Largest share of all voxels in a part of EMPTY_HU of that width: more is air on another scale."""
LIGHTEST_SHARE = 0.002
"""Of the voxels that are not padding, the lightest."""
MISPLACED_HU = (-850, -250)
MISPLACED_WIDTH_HU = 150
MAX_MISPLACED_SHARE = 0.15
"""If the lightest voxels lie in MISPLACED_HU, with more than this share of all voxels in
MISPLACED_WIDTH_HU from there on, they are air on another scale. Lung has lighter voxels too."""
MAX_ABOVE_CLIP_SHARE = 0.1
"""The same for a frequent value, with the EMPTY_WIDTH_HU above it: HU that were clipped leave few
there, and air on another scale has noise."""
FAT_HU, FAT_WIDTH_HU, MAX_FAT_SHARE = (-250, -60), 10, 0.12
"""In a file without air, no FAT_WIDTH_HU of FAT_HU hold more of the voxels: fat has noise. In real
scans it was 0.07 or less. Air with a tenth of its slope has more."""
LOWEST_AIR_HU = -1110
"""The median of air, of noise too, is above."""
MIN_AIR_SHARE = 0.15
"""Of the voxels that are not padding, air, for its median to tell the intercept."""
MIN_PEAK_WIDTH_HU, WATER_HU = 12, 20
"""In a file without air, the highest peak of tissue, at half of its height, is wider, or farther
from 0 HU. In real scans it was 27 HU wide or more. With a tenth of the slope its width is that of
the smoothing, _SMOOTHED_HU, and all tissue is near 0 HU."""
PEAK_HU = (-150, 250)
"""Where that peak is searched."""
INT8 = (-128, 127)
MIN_LIKENESS = 0.1
"""1 for neighbours that are equal, 0 for noise without any object."""
MAX_SLICE_SHARE = 0.25
"""Of the voxels of one slice, those above DENSE_HU, or those below LOWEST_HU."""
MAX_WRAPPED_SHARE = 0.003
"""Of neighbours, those of metal and air: edges of metal are blurred, wrapped values have none."""
MAX_8_BIT = 255
SPIKE = 10
"""A clipped or padded value is so many times as frequent as any other within SPIKE_HU."""
SPIKE_HU = 64
MIN_SPIKE_SHARE = 0.002
"""Of all voxels, those of a value that is examined as padding, or as clipped."""
MIN_CLIPPED_SHARE = 0.005
"""Of all voxels, those of a value at which HU are clipped."""

_ROWS, _COLUMNS = 32, 64
"""Rows and columns of every slice that are sampled, at most twice as many."""
_PAIRED_SLICES = 4
"""In every so many slices, voxels are compared with their neighbours."""
_MIN_PAIRS = 1000
_INT16 = np.iinfo(np.int16)
_N_VALUES = 1 << 16

Counts = npt.NDArray[np.int64]


def check_hu(hu: npt.NDArray[np.int16]) -> None:
    """Raise SeriesRefused(NOT_HU) unless `hu`, (slice, row, column), can be HU of a body.

    The detail gives the cause and the figures.
    """
    evidence = HuEvidence.from_volume(hu)
    fault = evidence.fault()
    if fault:
        raise SeriesRefused(Reason.NOT_HU, f"{fault}; {evidence.figures()}")
    fault = evidence.slice_fault(hu)
    if fault:
        raise SeriesRefused(Reason.NOT_HU, fault)


@dataclass(frozen=True)
class HuEvidence:
    """What a sample of a volume shows."""

    counts: Counts
    """(65536,): how often each value occurs, from -32768 on."""
    by_slice: Counts
    """(slice, 2): values below LOWEST_HU, and above DENSE_HU."""
    likeness: float
    """1 - mean squared difference of neighbours / (2 variance), the lower one of both axes in the
    plane; padding does not count. 1 if there are too few pairs."""
    wrapped_share: float
    """Share of the neighbours that are metal beside air."""

    @classmethod
    def from_volume(cls, hu: npt.NDArray[np.int16]) -> HuEvidence:
        """Sample a volume, (slice, row, column)."""
        _, rows, columns = hu.shape
        steps = (max(1, rows // _ROWS), max(1, columns // _COLUMNS))
        counts = np.zeros(_N_VALUES, np.int64)
        by_slice = np.zeros((len(hu), 2), np.int64)
        sums = np.zeros(6, np.float64)
        _sample(hu, *steps, counts, by_slice, sums)
        n, total, squares, across, down, wrapped = sums.tolist()
        likeness, variance = 1.0, 0.0
        if n >= _MIN_PAIRS:
            variance = squares / n - (total / n) ** 2
        if variance > 0:
            likeness = 1.0 - max(across, down) / n / (2.0 * variance)
        return cls(counts, by_slice, likeness, wrapped / n if n else 0.0)

    def share(self, low: float, high: float) -> float:
        """Share of all voxels from `low` to `high` HU, both included."""
        return _count(self.counts, low, high) / self.n

    @cached_property
    def n(self) -> int:
        """Number of voxels in the sample."""
        return int(self.counts.sum())

    @cached_property
    def padding(self) -> npt.NDArray[np.bool_]:
        """(65536,): which values below LOWEST_HU are padding: single, frequent ones."""
        low = np.zeros(_N_VALUES, bool)
        low[: LOWEST_HU - _INT16.min] = True
        return self._spikes & low

    @cached_property
    def measured(self) -> Counts:
        """Counts without padding."""
        return np.where(self.padding, 0, self.counts)

    @cached_property
    def n_measured(self) -> int:
        """Number of voxels without padding."""
        return int(self.measured.sum())

    @cached_property
    def tissue(self) -> Counts:
        """Counts above TISSUE_HU, without the lowest and the highest value if HU are clipped there.

        Values clipped from below may be air.
        """
        tissue = self.measured.copy()
        present = np.flatnonzero(tissue)
        for end in (present[:1], present[-1:]):
            is_clipped = self._spikes[end] & (tissue[end] >= MIN_CLIPPED_SHARE * self.n)
            tissue[end[is_clipped]] = 0
        tissue[: TISSUE_HU - _INT16.min + 1] = 0
        return tissue

    @cached_property
    def _spikes(self) -> npt.NDArray[np.bool_]:
        """Which values are SPIKE times as frequent as any other within SPIKE_HU."""
        spikes = np.zeros(_N_VALUES, bool)
        for value in np.flatnonzero(self.counts >= MIN_SPIKE_SHARE * self.n).tolist():
            around = self.counts[max(0, value - SPIKE_HU) : value + SPIKE_HU + 1]
            spikes[value] = self.counts[value] >= SPIKE * np.partition(around, -2)[-2]
        return spikes

    def fault(self) -> str:
        """Why the values cannot be HU; empty if they can."""
        faults = itertools.chain(self._range_faults(), self._scale_faults(), self._noise_faults())
        return next(faults, "")

    def _range_faults(self) -> Iterator[str]:
        """Values that are all equal, or that no body has."""
        value = int(self.counts.argmax())
        share = self.counts[value] / self.n
        if self.counts[value] == self.n:
            yield f"every voxel is {value + _INT16.min} HU"
        if share > MAX_CONSTANT_SHARE:
            yield f"{share:.2%} of the voxels are {value + _INT16.min} HU"
        share = self.share(_INT16.max, _INT16.max)
        if share > MAX_SATURATED_SHARE:
            yield f"{share:.1%} of the voxels are beyond 16 bits"
        share = self.share(HIGHEST_HU + 1, _INT16.max)
        if share > MAX_HIGH_SHARE:
            yield f"{share:.1%} of the voxels are above {HIGHEST_HU} HU, denser than bone"
        share = _count(self.measured, _INT16.min, LOWEST_HU - 1) / max(1, self.n_measured)
        if share > MAX_LOW_SHARE:
            yield f"{share:.1%} of the voxels are below {LOWEST_HU} HU, lighter than air"
        low, high = LIGHT_HU
        if self.share(low + 1, high - 1) < MIN_LIGHT_SHARE:
            present = np.flatnonzero(self.measured) + _INT16.min
            is_8_bit = present.size > 0 and 0 <= present[0] <= present[-1] <= MAX_8_BIT
            cause = "it is a window in 8 bits" if is_8_bit else "the intercept is missing"
            yield f"neither fat, lung nor air: {cause}, or it is not CT"

    def _scale_faults(self) -> Iterator[str]:
        """A slope or an intercept with which soft tissue is not where it must be."""
        n_tissue = int(self.tissue.sum())
        if self._densest_share(EMPTY_HU, EMPTY_WIDTH_HU) > MAX_EMPTY_SHARE:
            yield "a peak between lung and fat, where no tissue lies: the slope is wrong"
        lightest = self._lightest_hu()
        if MISPLACED_HU[0] < lightest < MISPLACED_HU[1] and self._holds_air(lightest):
            yield f"air lies at {lightest} HU: slope or intercept is wrong"
        air = self.measured[: LUNG_HU - _INT16.min]
        if air.sum() > MIN_AIR_SHARE * self.n_measured:
            median = int(np.searchsorted(np.cumsum(air), air.sum() / 2)) + _INT16.min
            if median < LOWEST_AIR_HU:
                yield f"air lies at {median} HU: slope or intercept is wrong"
        present = np.flatnonzero(self.measured) + _INT16.min
        if (present[0], present[-1]) == INT8 and self._is_clipped(INT8[0]):
            yield "the values fill 8 bits: it is a window, or parts of values"
        fat_share = self._densest_share(FAT_HU, FAT_WIDTH_HU)
        if (
            lightest > MISPLACED_HU[1]
            and not self._is_clipped(lightest)
            and fat_share > MAX_FAT_SHARE
        ):
            yield f"{fat_share:.0%} lie in {FAT_WIDTH_HU} HU where fat lies: the slope is wrong"
        peak, width = self._soft_peak()
        if lightest > MISPLACED_HU[1] and width < MIN_PEAK_WIDTH_HU and abs(peak) < WATER_HU:
            yield f"soft tissue lies at {peak} HU, in {width} HU: the slope is wrong"
        if _count(self.tissue, DENSE_HU + 1, _INT16.max) > MAX_DENSE_OF_TISSUE * n_tissue:
            yield f"much of the tissue is above {DENSE_HU} HU, denser than bone"
        n_shifted = _count(self.tissue, *SHIFTED_HU)
        n_cancellous = _count(self.tissue, *CANCELLOUS_HU)
        if n_shifted > max(MAX_SHIFTED_OF_TISSUE * n_tissue, n_cancellous):
            yield "soft tissue lies at 1000 HU: the intercept is missing"
        n_soft = _count(self.tissue, *SOFT_TISSUE_HU)
        n_body = _count(self.measured, BODY_HU, _INT16.max)
        if n_soft < max(
            MIN_SOFT_SHARE * self.n_measured,
            MIN_SOFT_OF_BODY * n_body,
            MIN_SOFT_OF_TISSUE * n_tissue,
        ):
            yield "too little soft tissue: slope or intercept is wrong, or it is not a body"

    def _noise_faults(self) -> Iterator[str]:
        """Neighbours that no object has."""
        if self.likeness < MIN_LIKENESS:
            yield "voxels are not like their neighbours: noise without an object"
        if self.wrapped_share > MAX_WRAPPED_SHARE:
            yield f"{self.wrapped_share:.2%} are metal beside air: they wrapped around"

    def figures(self) -> str:
        """Range, share of soft tissue and the most frequent HU, in words."""
        present = np.flatnonzero(self.measured)
        if not present.size:
            padding = np.flatnonzero(self.padding) + _INT16.min
            return f"only padding, from {padding[0]} to {padding[-1]} HU"
        cumulative = np.cumsum(self.measured)
        low, high = (
            int(np.searchsorted(cumulative, share * cumulative[-1], side="left")) + _INT16.min
            for share in (0.001, 0.999)
        )
        soft = _count(self.measured, *SOFT_TISSUE_HU) / int(cumulative[-1])
        peaks = [f"the highest peak at {_peak(self.measured)} HU"]
        if self.tissue.any():
            peaks.append(f"that of tissue at {_peak(self.tissue)} HU")
        low_hu, high_hu = SOFT_TISSUE_HU
        return (
            f"values from {low} to {high}, {soft:.1%} from {low_hu} to {high_hu} HU, "
            + ", ".join(peaks)
        )

    def slice_fault(self, hu: npt.NDArray[np.int16]) -> str:
        """Which slice of `hu`, the sampled volume, holds no HU; empty if all do."""
        n = self.n / len(hu)
        for index in np.flatnonzero((self.by_slice > MAX_SLICE_SHARE * n).any(axis=1)).tolist():
            _, rows, columns = hu.shape
            plane = hu[index, :: max(1, rows // _ROWS), :: max(1, columns // _COLUMNS)]
            present, counts = np.unique(plane, return_counts=True)
            low = counts[(present < LOWEST_HU) & ~self.padding[present.astype(int) - _INT16.min]]
            # A blank slice has one value, of its own.
            n_low = int(low.sum()) if low.size > 1 else 0
            n_dense = int(counts[present > DENSE_HU].sum())
            if max(n_low, n_dense) > MAX_SLICE_SHARE * plane.size:
                return (
                    f"slice {index + 1} of {len(hu)} holds no HU: {n_low / plane.size:.1%} of its "
                    f"voxels are below {LOWEST_HU} HU, {n_dense / plane.size:.1%} above {DENSE_HU}"
                )
        return ""

    def _lightest_hu(self) -> int:
        """Upper end of the lightest LIGHTEST_SHARE of the voxels that are not padding."""
        cumulative = np.cumsum(self.measured)
        return int(np.searchsorted(cumulative, LIGHTEST_SHARE * cumulative[-1])) + _INT16.min

    def _holds_air(self, hu: int) -> bool:
        """Whether so many voxels are above `hu` that it is no value at which HU were clipped."""
        if self._is_clipped(hu):
            return self.share(hu + 1, hu + EMPTY_WIDTH_HU) > MAX_ABOVE_CLIP_SHARE
        return self.share(hu, hu + MISPLACED_WIDTH_HU) > MAX_MISPLACED_SHARE

    def _is_clipped(self, hu: int) -> bool:
        """Whether a value is so frequent, beside its neighbours, that HU were clipped there."""
        value = hu - _INT16.min
        return bool(self._spikes[value] and self.counts[value] >= MIN_CLIPPED_SHARE * self.n)

    def _soft_peak(self) -> tuple[int, int]:
        """Place of the highest peak of tissue in PEAK_HU, and its width at half of its height.

        Counts are smoothed. The width is that of the range without enough tissue.
        """
        low, high = (hu - _INT16.min for hu in PEAK_HU)
        present = np.flatnonzero(self.tissue[low:high])
        tissue = self.tissue[low:high].copy()
        tissue[present[:1]] = tissue[present[-1:]] = 0  # HU may be clipped there
        if tissue.sum() < _MIN_PAIRS:
            return 0, high - low
        smoothed = np.convolve(tissue, np.ones(_SMOOTHED_HU), "same")
        peak = int(smoothed.argmax())
        is_low = smoothed <= smoothed[peak] / 2
        before, after = np.flatnonzero(is_low[:peak]), np.flatnonzero(is_low[peak:])
        start = int(before[-1]) if before.size else -1
        stop = peak + int(after[0]) if after.size else len(smoothed)
        return peak + PEAK_HU[0], stop - start - 1

    def _densest_share(self, bounds: tuple[int, int], width_hu: int) -> float:
        """Largest share of voxels in `width_hu` within bounds; clipped values do not count."""
        low, high = (value - _INT16.min for value in bounds)
        inside = np.where(self._spikes[low:high], 0, self.counts[low:high])
        cumulative = np.concatenate(([0], np.cumsum(inside)))
        return float((cumulative[width_hu:] - cumulative[:-width_hu]).max()) / self.n


_PEAK_HU = 20
_SMOOTHED_HU = 9


def _count(counts: Counts, low: float, high: float) -> int:
    """Voxels from `low` to `high` HU, both included."""
    return int(counts[int(low) - _INT16.min : int(high) - _INT16.min + 1].sum())


def _peak(counts: Counts) -> int:
    """Centre of the most frequent _PEAK_HU values, to be read by a person."""
    cumulative = np.concatenate(([0], np.cumsum(counts)))
    start = int((cumulative[_PEAK_HU:] - cumulative[:-_PEAK_HU]).argmax())
    return start + _PEAK_HU // 2 + int(_INT16.min)


@numba.njit(nogil=True, cache=True)
def _sample(hu, row_step, column_step, counts, by_slice, sums):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count every n-th voxel of each slice, and compare those of some slices with neighbours.

    `sums`: pairs, then of their first voxels the sum and the sum of squares, the squared
    differences along the row and along the column, and pairs of metal beside air.
    """
    rows, columns = hu.shape[1], hu.shape[2]
    for z in range(hu.shape[0]):
        for y in range(0, rows, row_step):
            for x in range(0, columns, column_step):
                value = np.int64(hu[z, y, x])
                counts[value + 32768] += 1
                by_slice[z, 0] += value < LOWEST_HU
                by_slice[z, 1] += value > DENSE_HU
        if z % _PAIRED_SLICES:
            continue
        for y in range(0, rows - 1, row_step):
            for x in range(0, columns - 1, column_step):
                a, b, c = (
                    np.int64(hu[z, y, x]),
                    np.int64(hu[z, y, x + 1]),
                    np.int64(hu[z, y + 1, x]),
                )
                lowest, highest = min(a, b, c), max(a, b, c)
                if lowest < LOWEST_HU:
                    continue
                sums[5] += highest > METAL_HU and lowest < LUNG_HU
                here = min(a, np.int64(DENSE_HU))
                right = min(b, np.int64(DENSE_HU))
                below = min(c, np.int64(DENSE_HU))
                sums[0] += 1
                sums[1] += here
                sums[2] += here * here
                sums[3] += (here - right) ** 2
                sums[4] += (here - below) ** 2
