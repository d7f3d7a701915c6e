"""The side of the largest solid organ, on spheres whose place and volume are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from voco_data.cropping.body import find_body
from voco_data.cropping.liver import find_solid_tissue
from voco_data.cropping.lungs import find_chest
from voco_data.cropping.sampling import sample_volume
from voco_data.volumes import Triple

SPACING_MM: Triple = (4.0, 4.0, 4.0)


def trunk(*spheres: tuple[float, float]) -> npt.NDArray[np.int16]:
    """An ellipse of fat, 360 mm wide, with spheres of tissue: (mm to the left, radius in mm)."""
    z, y, x = np.ogrid[:50, :80, :100]
    hu = np.full((50, 80, 100), -1000, np.int16)
    hu[
        np.broadcast_to(((x - 49.5) * 4 / 180) ** 2 + ((y - 39.5) * 4 / 120) ** 2 < 1, hu.shape)
    ] = -90
    for left_mm, radius_mm in spheres:
        squared = ((z - 24.5) * 4) ** 2 + ((y - 39.5) * 4) ** 2 + ((x - 49.5) * 4 - left_mm) ** 2
        hu[squared < radius_mm**2] = 60
    return hu


def measure(hu: npt.NDArray[np.int16]) -> tuple[float, float, float]:
    coarse = sample_volume(hu, SPACING_MM)
    body = find_body(coarse)
    found = find_solid_tissue(coarse, body, find_chest(coarse, body))
    return found.left_share, found.largest_ml, found.largest_left_mm


@pytest.mark.parametrize("left_mm", [-80.0, 80.0])
def test_one_organ(left_mm: float) -> None:
    share, volume_ml, centre_mm = measure(trunk((left_mm, 60.0)))
    assert share == (left_mm > 0)
    assert centre_mm == pytest.approx(left_mm, abs=4.0)
    assert volume_ml == pytest.approx(eroded_sphere_ml(60.0, 16.0), rel=0.2)


def eroded_sphere_ml(radius_mm: float, half_side_mm: float) -> float:
    """Volume of the points around which a cube is inside a sphere, summed on a grid of 1 mm."""
    reach = np.abs(np.arange(-radius_mm, radius_mm + 1)) + half_side_mm
    squared = reach[:, None, None] ** 2 + reach[None, :, None] ** 2 + reach[None, None, :] ** 2
    return float((squared < radius_mm**2).sum()) / 1000.0


def test_the_largest_of_two_counts() -> None:
    share, _, centre_mm = measure(trunk((-90.0, 65.0), (100.0, 45.0)))
    assert share < 0.3
    assert centre_mm == pytest.approx(-90.0, abs=4.0)


def test_thin_tissue_is_eroded_away() -> None:
    assert measure(trunk((-80.0, 12.0), (80.0, 12.0))) == (0.5, 0.0, 0.0)
