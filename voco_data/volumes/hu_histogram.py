"""HU counts of a box in fixed bins, equal for all series and small enough for every preview.

The record's percentiles, the preview and the report's plots use the same histogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.volumes.geometry import Box

LOW_HU, STEP_HU, BINS = -1024, 20, 132
"""The bins are -1024 to -1004, ..., 1596 to 1616 HU. Values beyond count in the first or last."""
TISSUE_HU = -204
"""A bin edge. Lower HU are air, in and around the patient; higher HU are tissue, fat included."""
SAMPLES = 64
"""Voxels of the box that are counted along each axis, at most twice as many."""

_BIN_BY_BITS = np.clip(
    (np.arange(1 << 16).astype(np.uint16).view(np.int16).astype(np.int32) - LOW_HU) // STEP_HU,
    0,
    BINS - 1,
)
"""The bin of each int16 value, indexed by its bits as uint16."""


@dataclass(frozen=True, slots=True)
class HuHistogram:
    """How many voxels fall into each bin."""

    counts: tuple[int, ...]
    """(BINS,)"""

    @classmethod
    def from_values(cls, hu: npt.NDArray[np.int16]) -> HuHistogram:
        """Count all values of `hu`, of any shape."""
        # Counts by value first, then by bin: no division for each voxel.
        by_value = np.bincount(hu.ravel().view(np.uint16), minlength=1 << 16)
        return cls(
            tuple(int(n) for n in np.bincount(_BIN_BY_BITS, weights=by_value, minlength=BINS))
        )

    @classmethod
    def from_box(cls, hu: npt.NDArray[np.int16], box: Box) -> HuHistogram:
        """Count every n-th voxel of `box` along each axis of `hu`, canonical (z, y, x).

        Counting all voxels would take longer than reading the series.
        """
        z, y, x = (
            slice(start, stop, max(1, (stop - start) // SAMPLES))
            for start, stop in zip(box.start, box.stop, strict=True)
        )
        return cls.from_values(hu[z, y, x])

    def share_between(self, low_hu: float, high_hu: float) -> float:
        """Share of the values between two HU, both excluded; bins that overlap count as a whole."""
        counts = np.asarray(self.counts, np.int64)
        edges = LOW_HU + STEP_HU * np.arange(BINS + 1, dtype=np.float64)
        edges[0], edges[-1] = -np.inf, np.inf
        overlaps = (edges[:-1] < high_hu) & (edges[1:] > low_hu)
        return float(counts[overlaps].sum() / counts.sum())

    def tissue_percentile(self, percent: float) -> float | None:
        """The HU below which `percent` of the tissue lies; None without tissue.

        Linear within a bin, so its error is below STEP_HU.
        """
        first_bin = (TISSUE_HU - LOW_HU) // STEP_HU
        cumulative = np.cumsum(np.asarray(self.counts[first_bin:], np.float64))
        if not cumulative.size or cumulative[-1] == 0:
            return None
        edges = TISSUE_HU + STEP_HU * np.arange(cumulative.size + 1)
        rank = percent / 100 * cumulative[-1]
        return float(np.interp(rank, np.concatenate(([0.0], cumulative)), edges))
