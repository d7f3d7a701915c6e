"""HU at the ends of int16: metal, padding around the field of view, and what is neither."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.ct_files import body
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes.saturation import ClippedVoxels


def flags(hu: np.ndarray) -> tuple[str, ...]:
    clipped = ClippedVoxels()
    for plane in hu:
        clipped.add(plane)
    return clipped.flags()


def test_a_single_voxel_of_metal_is_flagged() -> None:
    hu = body()
    assert flags(hu) == ()
    hu[7, 30, 30] = 32767
    assert flags(hu) == ("hu_clipped",)


def test_padding_around_the_field_of_view_is_not() -> None:
    hu = body()
    y, x = np.ogrid[-1:1:60j, -1:1:60j]
    hu[:, y**2 + x**2 > 1] = -32768
    hu[3] = -32768  # a blank slice
    hu[4, :, :20] = -32768
    assert flags(hu) == ()
    hu[9, 28:31, 29] = -32768
    assert flags(hu) == ("hu_clipped",)


@pytest.mark.parametrize("value", [32767, -32768])
def test_more_than_metal_is_refused(value: int) -> None:
    hu = body()
    hu[:, 20:30, 20:30] = value
    with pytest.raises(SeriesRefused, match="at the ends of 16 bits") as caught:
        flags(hu)
    assert caught.value.reason == Reason.NOT_HU
