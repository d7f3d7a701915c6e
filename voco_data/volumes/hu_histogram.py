"""HU counts in fixed bins: small enough to keep beside every picture, the same for every series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LOW_HU, STEP_HU, BINS = -1024, 20, 132
"""The bins are -1024 to -1004, ..., 1596 to 1616 HU. Values beyond count in the first or last."""
TISSUE_HU = -204
"""A bin edge. Below it lies air, in and around the patient; above it tissue, fat included."""

_BIN_OF = np.clip(
    (np.arange(1 << 16).astype(np.uint16).view(np.int16).astype(np.int32) - LOW_HU) // STEP_HU,
    0,
    BINS - 1,
)
"""The bin of each int16 value, by its bits."""


def count(hu: npt.NDArray[np.int16]) -> list[int]:
    """How many of the values of `hu`, of any shape, fall into each bin."""
    # A table of all int16 values is smaller than what is counted, and counting needs no division.
    counts = np.bincount(hu.ravel().view(np.uint16), minlength=1 << 16)
    return [int(n) for n in np.bincount(_BIN_OF, weights=counts, minlength=BINS)]


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
