"""A sample of the voxels of a volume: how often each value occurs, and what neighbours say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import numpy.typing as npt

SOFT_TISSUE_HU = (-150, 150)
"""Bounds of fat, water, muscle and organs, most of them with contrast medium too."""
TISSUE_HU = -300
"""Lower HU are air and lung."""
DENSE_HU = 1500
"""Little of a body is denser: cortical bone, teeth, metal."""
METAL_HU = 2500
"""Metal is denser."""
LUNG_HU = -800
"""Lower HU are air, or the lightest parts of lungs."""
LOWEST_HU = -1300
"""Air with the noise of a low dose ends here. Lower values are padding, or no HU."""
LIGHTEST_SHARE = 0.002
"""Of the voxels that are not padding, the lightest."""
PEAK_HU = (-150, 250)
"""Where the highest peak of tissue is searched."""
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
INT16 = np.iinfo(np.int16)
_N_VALUES = 1 << 16
_PEAK_HU = 20
_SMOOTHED_HU = 9
"""Counts are summed over so many HU before a peak is searched."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HuSample:
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
    def from_volume(cls, hu: npt.NDArray[np.int16]) -> HuSample:
        """Sample a volume, (slice, row, column)."""
        counts = np.zeros(_N_VALUES, np.int64)
        by_slice = np.zeros((len(hu), 2), np.int64)
        sums = np.zeros(6, np.float64)
        _sample(hu, *sample_steps(hu), counts, by_slice, sums)
        n, total, squares, across, down, wrapped = sums.tolist()
        likeness, variance = 1.0, 0.0
        if n >= _MIN_PAIRS:
            variance = squares / n - (total / n) ** 2
        if variance > 0:
            likeness = 1.0 - max(across, down) / n / (2.0 * variance)
        return cls(counts, by_slice, likeness, wrapped / n if n else 0.0)

    def share(self, low: float, high: float) -> float:
        """Share of all voxels from `low` to `high` HU, both included."""
        return count_hu(self.counts, low, high) / self.n

    @cached_property
    def n(self) -> int:
        """Number of voxels in the sample."""
        return int(self.counts.sum())

    @cached_property
    def padding(self) -> npt.NDArray[np.bool_]:
        """(65536,): which values below LOWEST_HU are padding: single, frequent ones."""
        low = np.zeros(_N_VALUES, bool)
        low[: LOWEST_HU - INT16.min] = True
        return self.spikes & low

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
            is_clipped = self.spikes[end] & (tissue[end] >= MIN_CLIPPED_SHARE * self.n)
            tissue[end[is_clipped]] = 0
        tissue[: TISSUE_HU - INT16.min + 1] = 0
        return tissue

    @cached_property
    def spikes(self) -> npt.NDArray[np.bool_]:
        """Which values are SPIKE times as frequent as any other within SPIKE_HU."""
        spikes = np.zeros(_N_VALUES, bool)
        for value in np.flatnonzero(self.counts >= MIN_SPIKE_SHARE * self.n).tolist():
            around = self.counts[max(0, value - SPIKE_HU) : value + SPIKE_HU + 1]
            spikes[value] = self.counts[value] >= SPIKE * np.partition(around, -2)[-2]
        return spikes

    def lightest_hu(self) -> int:
        """Upper end of the lightest LIGHTEST_SHARE of the voxels that are not padding."""
        cumulative = np.cumsum(self.measured)
        return int(np.searchsorted(cumulative, LIGHTEST_SHARE * cumulative[-1])) + INT16.min

    def is_clipped(self, hu: int) -> bool:
        """Whether a value is so frequent, beside its neighbours, that HU were clipped there."""
        value = hu - INT16.min
        return bool(self.spikes[value] and self.counts[value] >= MIN_CLIPPED_SHARE * self.n)

    def soft_peak(self) -> tuple[int, int]:
        """Place of the highest peak of tissue in PEAK_HU, and its width at half of its height.

        Counts are smoothed. The width is that of the range without enough tissue.
        """
        low, high = (hu - INT16.min for hu in PEAK_HU)
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

    def densest_share(self, bounds: tuple[int, int], width_hu: int) -> float:
        """Largest share of voxels in `width_hu` within bounds; clipped values do not count."""
        low, high = (value - INT16.min for value in bounds)
        inside = np.where(self.spikes[low:high], 0, self.counts[low:high])
        cumulative = np.concatenate(([0], np.cumsum(inside)))
        return float((cumulative[width_hu:] - cumulative[:-width_hu]).max()) / self.n

    def figures(self) -> str:
        """Range, share of soft tissue and the most frequent HU, in words."""
        present = np.flatnonzero(self.measured)
        if not present.size:
            padding = np.flatnonzero(self.padding) + INT16.min
            return f"only padding, from {padding[0]} to {padding[-1]} HU"
        cumulative = np.cumsum(self.measured)
        low, high = (
            int(np.searchsorted(cumulative, share * cumulative[-1], side="left")) + INT16.min
            for share in (0.001, 0.999)
        )
        soft = count_hu(self.measured, *SOFT_TISSUE_HU) / int(cumulative[-1])
        peaks = [f"the highest peak at {_peak(self.measured)} HU"]
        if self.tissue.any():
            peaks.append(f"that of tissue at {_peak(self.tissue)} HU")
        low_hu, high_hu = SOFT_TISSUE_HU
        return (
            f"values from {low} to {high}, {soft:.1%} from {low_hu} to {high_hu} HU, "
            + ", ".join(peaks)
        )


def sample_steps(hu: npt.NDArray[np.int16]) -> tuple[int, int]:
    """Distance of sampled rows and of sampled columns, in pixels."""
    _, rows, columns = hu.shape
    return max(1, rows // _ROWS), max(1, columns // _COLUMNS)


def count_hu(counts: Counts, low: float, high: float) -> int:
    """Voxels from `low` to `high` HU, both included."""
    return int(counts[int(low) - INT16.min : int(high) - INT16.min + 1].sum())


def _peak(counts: Counts) -> int:
    """Centre of the most frequent _PEAK_HU values, to be read by a person."""
    cumulative = np.concatenate(([0], np.cumsum(counts)))
    start = int((cumulative[_PEAK_HU:] - cumulative[:-_PEAK_HU]).argmax())
    return start + _PEAK_HU // 2 + int(INT16.min)


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
