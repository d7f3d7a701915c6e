"""HU histograms: percentiles against NumPy, bins at the ends of int16, and the samples of a box."""

from __future__ import annotations

import numpy as np
import pytest

from voco_data.volumes.geometry import Box
from voco_data.volumes.hu_histogram import BINS, SAMPLES, HuHistogram


def test_percentiles_of_the_tissue() -> None:
    hu = np.concatenate([np.full(5000, -1000), np.arange(-100, 101).repeat(10)]).astype(np.int16)
    histogram = HuHistogram.from_values(hu)
    assert sum(histogram.counts) == hu.size
    for percent in (5, 50, 95):
        expected = np.percentile(np.arange(-100, 101), percent)
        assert histogram.tissue_percentile(percent) == pytest.approx(expected, abs=2)


def test_air_has_no_percentile() -> None:
    assert HuHistogram.from_values(np.full(9, -900, np.int16)).tissue_percentile(50) is None


def test_values_beyond_the_bins_count_in_the_first_and_the_last() -> None:
    counts = HuHistogram.from_values(np.array([-32768, 32767], np.int16)).counts
    assert counts == (1, *[0] * (BINS - 2), 1)


def test_large_boxes_are_sampled() -> None:
    hu = np.full((3 * SAMPLES, 10, 10), -1000, np.int16)
    hu[::3, 2:8, 2:8] = 40  # every third slice, from the first of the box on
    box = Box((0, 2, 2), (3 * SAMPLES, 8, 8), "profile", 0.9)
    counts = HuHistogram.from_box(hu, box).counts
    assert counts[(40 + 1024) // 20] == sum(counts) == SAMPLES * 6 * 6
