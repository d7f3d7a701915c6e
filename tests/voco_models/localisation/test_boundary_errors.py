"""Errors of faces, computed by hand."""

from __future__ import annotations

import math

import pytest

from voco_models.localisation.boundary_errors import (
    Extent,
    boundary_errors,
    mean_boxes,
    place_in,
    summarise_errors,
)
from voco_models.localisation.boxes import OrganBox

VOLUME = Extent((0.0, 0.0, 0.0), (400.0, 200.0, 300.0))
LIVER = Extent((150.0, 20.0, 30.0), (300.0, 180.0, 200.0))


def test_errors_are_found_less_true() -> None:
    box = OrganBox((147.0, 20.0, 31.0), (304.0, 178.0, 200.0), 0.9)
    errors = boundary_errors([{"liver": box}], [{"liver": LIVER}], [VOLUME])
    by_face = dict(zip(errors["face"], errors["error_mm"], strict=True))
    assert by_face == {
        "z_low": -3.0, "z_high": 4.0, "y_low": 0.0, "y_high": -2.0, "x_low": 1.0, "x_high": 0.0,
    }  # fmt: skip
    assert summarise_errors(errors)["liver"] == {
        "median_mm": 1.5, "p95_mm": pytest.approx(3.75), "faces": 6, "missed": 0,
    }  # fmt: skip


def test_a_face_where_the_scan_cuts_the_organ_is_left_out() -> None:
    cut = Extent((0.0, 20.0, 30.0), (100.0, 180.0, 200.0))
    box = OrganBox((50.0, 20.0, 30.0), (100.0, 180.0, 200.0), 0.9)
    errors = boundary_errors([{"liver": box}], [{"liver": cut}], [VOLUME])
    assert "z_low" not in set(errors["face"])
    assert errors["error_mm"].abs().max() == 0


def test_an_organ_that_was_not_found_is_counted_and_has_no_error() -> None:
    errors = boundary_errors([{}], [{"liver": LIVER}], [VOLUME])
    summary = summarise_errors(errors)
    assert summary["all"]["missed"] == summary["all"]["faces"] == 6
    assert math.isnan(summary["all"]["median_mm"])


def test_an_organ_that_no_mask_shows_is_not_scored() -> None:
    box = OrganBox((147.0, 20.0, 31.0), (304.0, 178.0, 200.0), 0.9)
    assert boundary_errors([{"spleen": box}], [{}], [VOLUME]).empty


def test_mean_boxes_are_fractions_of_the_volume() -> None:
    """One organ from 0.25 to 0.5, the other from 0.35 to 0.7: the mean is 0.3 to 0.6."""
    small = Extent((0.0, 0.0, 0.0), (100.0, 100.0, 100.0))
    first = Extent((25.0, 25.0, 25.0), (50.0, 50.0, 50.0))
    second = Extent((140.0, 70.0, 105.0), (280.0, 140.0, 210.0))
    mean = mean_boxes([{"liver": first}, {"liver": second}], [small, VOLUME])["liver"]
    shifted = Extent((-100.0, 0.0, 0.0), (100.0, 100.0, 100.0))
    box = place_in(shifted, mean)
    assert box.low_mm == pytest.approx((-40.0, 30.0, 30.0))
    assert box.high_mm == pytest.approx((20.0, 60.0, 60.0))
