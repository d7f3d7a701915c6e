"""HU counts in fixed bins: small enough to keep beside every picture, the same for every series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LOW_HU, STEP_HU, BINS = -1024, 20, 132
"""The bins are -1024 to -1004, ..., 1596 to 1616 HU. Values beyond count in the first or last."""
TISSUE_HU = -204
"""A bin edge. Below it lies air, in and around the patient; above it tissue, fat included."""


def count(hu: npt.NDArray[np.int16]) -> list[int]:
    """How many of the values of `hu`, of any shape, fall into each bin."""
    bins = np.clip((hu.astype(np.int32) - LOW_HU) // STEP_HU, 0, BINS - 1)
    return [int(n) for n in np.bincount(bins.ravel(), minlength=BINS)]


def tissue_percentile(counts: Sequence[int], percent: float) -> float | None:
    """The HU below which `percent` of the tissue lies; None without tissue.

    Linear within a bin, so it is as exact as the bins are narrow.
    """
    first = (TISSUE_HU - LOW_HU) // STEP_HU
    tissue = np.cumsum(np.asarray(counts[first:], np.float64))
    if not tissue.size or tissue[-1] == 0:
        return None
    edges = TISSUE_HU + STEP_HU * np.arange(tissue.size + 1)
    return float(np.interp(percent / 100 * tissue[-1], np.concatenate(([0.0], tissue)), edges))
