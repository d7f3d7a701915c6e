"""Images on the map of a series: orientation, place and spacing, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voco_data.dicom import read_planar_image
from voco_data.errors import InputError, SeriesRefused
from voco_data.paired_images.image_files import GreyImage
from voco_data.paired_images.map_area import MapArea, Plane
from voco_data.paired_images.placement import place, shown_plane, with_mask
from voco_data.volumes import PlanarGeometry

CORONAL = MapArea("coronal", (20, 10), (-100.0, 100.0), (-50.0, 50.0))
SAGITTAL = MapArea("sagittal", (20, 10), (-100.0, 100.0), (0.0, 100.0))


def image(values: Any, geometry: PlanarGeometry | None = None) -> GreyImage:
    values = np.asarray(values, np.float64)
    return GreyImage(values, np.ones(values.shape, bool), (0.0, 1.0), geometry=geometry)


def dot(shape: tuple[int, int], row: int, column: int) -> Any:
    values = np.zeros(shape)
    values[row, column] = 1.0
    return values


def test_an_image_without_geometry_is_that_of_a_viewer() -> None:
    """Up is superior; the left edge is the patient's right side, or the front."""
    for area in (CORONAL, SAGITTAL):
        placed = place(image(dot((20, 10), 0, 1)), area)
        assert np.argwhere(placed.values).tolist() == [[19, 1]]  # z grows upwards
        assert placed.is_valid.all()


@pytest.mark.parametrize(
    ("along_row", "along_column", "first", "corner"),
    [
        # The pixel (0, 0) of the image and where it is on the map (z, x): index 0 is the lowest.
        ((1, 0, 0), (0, 0, -1), (-45, 0, 95), (19, 0)),  # seen from the front, head up
        ((-1, 0, 0), (0, 0, -1), (45, 0, 95), (19, 9)),  # seen from behind
        ((1, 0, 0), (0, 0, 1), (-45, 0, -95), (0, 0)),  # head down
        ((0, 0, 1), (1, 0, 0), (-45, 0, -95), (0, 0)),  # lying: the column index is along z
        ((0, 0, -1), (-1, 0, 0), (45, 0, 95), (19, 9)),
    ],
)
def test_rows_and_columns_of_any_direction_land_on_their_coordinates(
    along_row: Any, along_column: Any, first: Any, corner: tuple[int, int]
) -> None:
    shape = (20, 10) if along_row[2] == 0 else (10, 20)
    geometry = PlanarGeometry(shape, (10.0, 10.0), first, along_row, along_column)
    placed = place(image(dot(shape, 0, 0), geometry), CORONAL)
    assert np.argwhere(placed.values == 1.0).tolist() == [list(corner)]
    assert placed.is_valid.all()


def test_a_sagittal_image_lands_on_its_coordinates() -> None:
    """Twice the map's pixels along z and four times along y; the front is at y = 0."""
    geometry = PlanarGeometry((40, 40), (5.0, 2.5), (0.0, 1.25, 97.5), (0, 1, 0), (0, 0, -1))
    assert shown_plane(geometry) == "sagittal"
    values = np.zeros((40, 40))
    values[10:12, 4:8] = 1.0  # z 40 to 50 mm, y 10 to 20 mm
    placed = place(image(values, geometry), SAGITTAL)
    assert np.argwhere(placed.values).tolist() == [[14, 1]]
    assert placed.values[14, 1] == pytest.approx(1.0)


def test_a_shifted_image_lands_shifted_and_covers_less() -> None:
    shifted = PlanarGeometry((20, 10), (10.0, 10.0), (-25, 0, 65), (1, 0, 0), (0, 0, -1))
    values = np.zeros((20, 10))
    values[:, 2] = 1.0
    placed = place(image(values, shifted), CORONAL)
    valid = np.zeros((20, 10), bool)
    valid[:17, 2:] = True  # 30 mm down and 20 mm to the left
    np.testing.assert_array_equal(placed.is_valid, valid)
    assert set(np.argwhere(placed.values)[:, 1].tolist()) == {4}
    assert placed.coverage == pytest.approx(17 * 8 / 200)


def test_an_image_is_a_little_tilted_or_none_of_a_plane() -> None:
    def geometry(degrees: float) -> PlanarGeometry:
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        return PlanarGeometry((20, 10), (10, 10), (0, 0, 0), (c, s, 0), (0, 0, -1))

    planes: list[Plane | None] = [shown_plane(geometry(d)) for d in (0, 4.9, 5.1, 45, 90)]
    assert planes == ["coronal", "coronal", None, None, "sagittal"]
    axial = PlanarGeometry((20, 10), (10, 10), (0, 0, 0), (1, 0, 0), (0, 1, 0))
    assert shown_plane(axial) is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"spacing_mm": (0.0, 1.0)}, "expected 0.05 to 50"),
        ({"spacing_mm": (float("nan"), 1.0)}, "expected 0.05 to 50"),
        ({"position_mm": (1e6, 0.0, 0.0)}, "out of reach"),
        ({"along_row": (0.0, 0.0, 0.0)}, "without length"),
        ({"along_row": (0.0, 0.5, 0.5)}, "not perpendicular"),
    ],
)
def test_geometries_that_no_image_has_are_refused(change: dict[str, Any], match: str) -> None:
    good: dict[str, Any] = {
        "shape": (20, 10), "spacing_mm": (1.0, 1.0), "position_mm": (0.0, 0.0, 0.0),
        "along_row": (1.0, 0.0, 0.0), "along_column": (0.0, 0.0, -1.0),
    }  # fmt: skip
    PlanarGeometry(**good)
    with pytest.raises(SeriesRefused, match=match):
        PlanarGeometry(**(good | change))


def test_images_that_do_not_fit_are_one_line() -> None:
    aside = PlanarGeometry((20, 10), (10.0, 10.0), (35, 0, 95), (1, 0, 0), (0, 0, -1))
    sagittal = PlanarGeometry((20, 10), (10.0, 10.0), (0, 5, 95), (0, 1, 0), (0, 0, -1))
    axial = PlanarGeometry((20, 10), (10.0, 10.0), (0, 5, 95), (1, 0, 0), (0, 1, 0))
    noise = np.random.default_rng(0).uniform(0, 1, (20, 10))
    flat = GreyImage(np.full((20, 10), 3.0), np.ones((20, 10), bool), None)
    hidden = GreyImage(noise, np.zeros((20, 10), bool), None)
    for bad, match in (
        (image(noise, aside), "covers 20% of the series' map by its geometry"),
        (image(noise, sagittal), "expected a coronal image, .* is sagittal"),
        (image(noise, axial), "expected a coronal image, .* is axial or oblique"),
        (image(noise.T), "box, 200 x 100 mm, with square pixels, got 10 x 20 pixels; crop it, or "),
        (image(noise[:16]), "got 16 x 10 pixels"),
        (flat, "all its pixels on the map are alike"),
        (hidden, "the mask leaves no pixel"),
    ):
        with pytest.raises(InputError, match=match) as caught:
            place(bad, CORONAL)
        assert "\n" not in str(caught.value)
    place(image(np.ones((40, 21)) * np.arange(21) / 30), CORONAL)  # nearly square pixels
    with pytest.raises(InputError, match=r"expected a mask of 20 x 10 pixels .* got 10 x 20"):
        with_mask(image(noise), np.ones((10, 20), bool))


def test_percentiles_are_those_of_valid_pixels() -> None:
    """Half of the image is outside of the body and not measured: it does not set the contrast."""
    values = np.tile(np.linspace(0, 1000, 20)[:, None], (1, 10))
    grey = GreyImage(values, np.ones((20, 10), bool), None)
    masked = with_mask(grey, (values < 500) & (np.arange(10) >= 0))
    placed = place(masked, CORONAL)
    assert placed.values[placed.is_valid].max() == 1.0
    assert placed.coverage == 0.5
    assert (placed.values[~placed.is_valid] == 0).all()


@pytest.mark.real_ct
def test_a_real_scout_shows_the_liver_on_the_right(real_ct: Path) -> None:
    """A Siemens topogram of a prone patient, feet first: its columns run to the patient's right."""
    path = real_ct / "12_odd_single_files" / "TCGA-UCEC_topogram_localizer.dcm"
    found = read_planar_image(path)
    assert found.geometry is not None
    assert shown_plane(found.geometry) == "coronal"
    grey = GreyImage(found.values, found.is_measured, None, found.inverted, found.geometry)
    area = MapArea("coronal", (96, 96), (-400.0, 38.0), (-200.0, 200.0))
    shown = place(grey, area).values[::-1]  # as a viewer shows it
    liver, stomach = shown[10:24, 24:44], shown[10:24, 52:72]  # one mirrors the other
    unevenness = [float(np.abs(np.diff(part, axis=0)).mean()) for part in (liver, stomach)]
    assert unevenness[0] < 0.7 * unevenness[1]  # gas in the stomach
    assert shown[-4:, 25:35].mean() > shown[:4, 25:35].mean() + 0.1  # hip below, lung above
