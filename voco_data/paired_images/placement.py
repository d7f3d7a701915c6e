"""Images on the map of a series: by their geometry, or as images of the whole box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from voco_data.errors import InputError
from voco_data.paired_images.image_files import Bits, GreyImage
from voco_data.paired_images.map_area import (
    COLUMN_AXES,
    Interval,
    MapArea,
    MapImage,
    Plane,
    average_onto,
)
from voco_data.volumes import PlanarGeometry

TOLERANCE_DEG = 5.0
"""Largest angle between an index of an image and an axis of the patient."""
PERCENTILES = (1.0, 99.0)
"""Percentiles of the valid pixels of a map that become 0 and 1, if the file has no window."""
MIN_COVERAGE = 0.25
"""Least share of a map that an image with geometry must cover."""
ASPECT_TOLERANCE = 0.1
"""Largest relative difference between the aspects of an image without geometry and of its map."""


def shown_plane(geometry: PlanarGeometry) -> Plane | None:
    """The plane that an image shows; None if it is axial or oblique."""
    extents = geometry.extents(TOLERANCE_DEG)
    if extents is None:
        return None
    axes = {extent.axis for extent in extents}
    planes: list[Plane] = [p for p, axis in COLUMN_AXES.items() if axes == {0, axis}]
    return planes[0] if planes else None


def place(image: GreyImage, area: MapArea) -> MapImage:
    """An image on the map `area`, with values from 0 to 1.

    Raises InputError, without the name of the file, for an image of another plane, one that does
    not cover a quarter of the map, one of another aspect, and one without contrast.
    """
    placed = _by_geometry(image, area) if image.geometry else _as_whole_box(image, area)
    return _scale(placed, image)


def _by_geometry(image: GreyImage, area: MapArea) -> MapImage:
    assert image.geometry is not None
    plane = shown_plane(image.geometry)
    if plane != area.plane:
        raise InputError(
            f"expected a {area.plane} image, but ImageOrientationPatient is "
            f"{plane or 'axial or oblique'}"
        )
    placed = _average_by_geometry(image, image.geometry, area)
    if placed.coverage < MIN_COVERAGE:
        raise InputError(
            f"it covers {placed.coverage:.0%} of the series' map by its geometry, expected at "
            f"least {MIN_COVERAGE:.0%}; give an image of the same frame of reference"
        )
    return placed


def _average_by_geometry(image: GreyImage, geometry: PlanarGeometry, area: MapArea) -> MapImage:
    extents = geometry.extents(TOLERANCE_DEG)
    assert extents is not None
    rows, columns = extents
    values, measured = image.values, image.is_measured
    if rows.axis != 0:  # an image whose rows are not along z
        values, measured, rows, columns = values.T, measured.T, columns, rows
    flip = tuple(slice(None, None, -1 if e.reversed else 1) for e in (rows, columns))
    return average_onto(
        area,
        values[flip],
        measured[flip],
        (rows.low_mm, rows.high_mm),
        (columns.low_mm, columns.high_mm),
    )


def _as_whole_box(image: GreyImage, area: MapArea) -> MapImage:
    """An image without geometry shows the box of the series, as a viewer does: superior is up."""
    if image.values.shape != area.shape:
        _check_aspect(image.values.shape, area)
    upward = image.values[::-1], image.is_measured[::-1]
    placed = average_onto(area, *upward, area.rows_mm, area.columns_mm)
    if not placed.is_valid.any():
        raise InputError("the mask leaves no pixel of the map; expected a part that is measured")
    return placed


def _check_aspect(shape: tuple[int, ...], area: MapArea) -> None:
    height_mm, width_mm = area.size_mm
    ratio = (shape[0] / shape[1]) / (height_mm / width_mm)
    if not 1 - ASPECT_TOLERANCE < ratio < 1 / (1 - ASPECT_TOLERANCE):
        raise InputError(
            f"expected an image of the series' box, {height_mm:.0f} x {width_mm:.0f} mm, with "
            f"square pixels, got {shape[0]} x {shape[1]} pixels; crop it, or resize it to the "
            f"map's {area.shape[0]} x {area.shape[1]} pixels"
        )


def _scale(placed: MapImage, image: GreyImage) -> MapImage:
    """Values from 0 to 1, after the average: what a detector with larger pixels would show."""
    low, high = image.value_range or _percentiles(placed)
    if not low < high:
        raise InputError("all its pixels on the map are alike; expected an image with contrast")
    unit = np.clip((placed.values - low) / (high - low), 0.0, 1.0)
    if image.inverted:
        unit = 1.0 - unit
    return replace(placed, values=np.where(placed.is_valid, unit, 0.0))


def _percentiles(placed: MapImage) -> Interval:
    low, high = np.percentile(placed.values[placed.is_valid], PERCENTILES)
    return float(low), float(high)


def with_mask(image: GreyImage, mask: Bits) -> GreyImage:
    """An image of which `mask` (rows, columns) says what is measured. Raises InputError."""
    if mask.shape != image.values.shape:
        raise InputError(
            f"expected a mask of {image.values.shape[0]} x {image.values.shape[1]} pixels as the "
            f"image, got {mask.shape[0]} x {mask.shape[1]}"
        )
    return replace(image, is_measured=image.is_measured & mask)
