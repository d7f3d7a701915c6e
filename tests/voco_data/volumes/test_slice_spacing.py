"""Even, uneven and missing slices, and their interpolation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.support.ct_files import body, write_slices
from voco_data.dicom.series.reader import read_series
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes.slice_spacing import MAX_BRIDGED_MM, GapPolicy, even_positions

REFUSE = GapPolicy(0.05)
RESAMPLE = GapPolicy(0.05, "resample")


def refusal(gaps: list[float], policy: GapPolicy) -> Reason:
    with pytest.raises(SeriesRefused) as caught:
        even_positions(np.cumsum([0.0, *gaps]), policy)
    return caught.value.reason


def test_a_missing_slice_is_not_an_uneven_one() -> None:
    assert refusal([5, 5, 10], REFUSE) == Reason.MISSING_SLICES
    assert refusal([5, 5, 7, 5], REFUSE) == Reason.UNEVEN_SPACING


def test_no_policy_bridges_a_wide_gap() -> None:
    assert refusal([1.25, 202.5, 1.25], RESAMPLE) == Reason.MISSING_SLICES
    assert even_positions(np.array([0, 5, 10, 10 + MAX_BRIDGED_MM]), RESAMPLE).resampled


def test_a_missing_slice_is_the_mean_of_its_neighbours(tmp_path: Path) -> None:
    hu = body()
    paths = write_slices(tmp_path, hu)
    volume = read_series(paths[:9] + paths[10:], gaps=RESAMPLE, min_slices=8)
    assert volume.hu.shape == hu.shape
    assert volume.geometry.spacing_mm[0] == pytest.approx(5.0)
    kept = [i for i in range(24) if i != 9]
    assert np.array_equal(volume.hu[kept], hu[kept])
    between = (hu[8].astype(float) + hu[10]) / 2
    assert np.abs(volume.hu[9] - between).max() <= 0.5
    assert volume.instance_numbers[8:11] == (9, -1, 11)
    assert "interpolated_slices" in volume.flags


@given(
    gaps=st.lists(st.floats(0.5, 6.0), min_size=3, max_size=40),
    slope=st.floats(-20, 20),
)
def test_a_linear_ramp_survives_any_spacing(gaps: list[float], slope: float) -> None:
    at = np.cumsum([0.0, *gaps])
    even = even_positions(at, RESAMPLE)
    ramp = np.rint(slope * at).astype(np.int16)[:, None, None]
    result = even.resample(ramp)[:, 0, 0]
    expected = slope * np.linspace(0.0, at[-1], even.count) if even.resampled else ramp[:, 0, 0]
    assert np.abs(result - expected).max() <= 1.0
    assert len(even.resample_instance_numbers(range(len(at)))) == even.count
