"""The slice AUC beside scikit-learn's, and slices beside positions in mm computed by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.support.small_stores import make_record
from voco_data.store.record import Record
from voco_data.store.spec import FINETUNE
from voco_models.data.volume_view import VolumeView
from voco_models.explanation.slice_auc import (
    SliceCase,
    slice_auc,
    slices_with_images,
    slices_with_organ,
    summarise_slices,
    view_edges_mm,
)


def test_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    curve = rng.integers(0, 5, 40).astype(np.float64)  # with ties
    positive = rng.random(40) < 0.3
    assert slice_auc(curve, positive) == pytest.approx(roc_auc_score(positive, curve))
    assert math.isnan(slice_auc(curve, np.ones(40, np.bool_)))


def scanned() -> Record:
    """Ten slices of 5 mm; their centres are at z 100, 105, ..., 145. The box is 110 to 150 mm."""
    record = make_record(0, np.zeros((10, 4, 4), np.uint8), FINETUNE, "a")
    return dataclasses.replace(
        record,
        spacing_mm=(5.0, 1.0, 1.0),
        canonical_first_mm=(100.0, 0.0, 0.0),
        box_low_mm=(110.0, 0.0, 0.0),
        box_high_mm=(150.0, 4.0, 4.0),
        instance_numbers=(9, 8, 7, 6, 5, 4, 3, 2, 1, -1),
    )


def test_images_are_found_by_their_position() -> None:
    view = VolumeView(slices=2, size_px=4, reduce="average", z_range=(0.5, 1.0))
    assert view_edges_mm(scanned(), view, 4).tolist() == [130, 140, 150]
    # number 3 is the seventh slice from below: z 130; number 1 is at 140; 9 is below the view
    assert slices_with_images(scanned(), view, 4, {3}).tolist() == [True, False]
    assert slices_with_images(scanned(), view, 4, {1}).tolist() == [False, True]
    assert slices_with_images(scanned(), view, 4, {9, 77}).tolist() == [False, False]


def test_slices_that_a_subsample_leaves_out_are_not_those_of_the_view() -> None:
    """Of 8 stored slices of 5 mm from 110 mm on, the 4 in the middle are seen."""
    view = VolumeView(slices=4, size_px=4, reduce="subsample", z_range=(0.125, 0.875))
    assert view_edges_mm(scanned(), view, 8).tolist() == pytest.approx([120, 125, 130, 135, 140])
    assert not slices_with_images(scanned(), view, 8, {7}).any()  # at 110 mm
    assert slices_with_images(scanned(), view, 8, {5}).tolist() == [True, False, False, False]


def test_slices_between_thick_images_show_the_nearest_one() -> None:
    """Images at 100, 110, 120 mm and slices of 4 mm: the image at 110 spans 105 to 115 mm."""
    thick = dataclasses.replace(
        scanned(),
        spacing_mm=(10.0, 1.0, 1.0),
        box_low_mm=(100.0, 0.0, 0.0),
        box_high_mm=(120.0, 4.0, 4.0),
        instance_numbers=(3, 2, 1),
    )
    view = VolumeView(slices=5, size_px=4, reduce="average")  # middles at 102, 106, ..., 118
    assert slices_with_images(thick, view, 5, {2}).tolist() == [False, True, True, True, False]
    assert slices_with_images(thick, view, 5, {3}).tolist() == [True, False, False, False, False]


def test_an_organ_is_in_the_slices_between_its_ends() -> None:
    unknown = [[math.nan] * 3] * 2
    boxes = torch.tensor([[[25.0, 0, 0], [45.0, 1, 1]], unknown, [[80.0, 0, 0], [90.0, 1, 1]]])
    depths = torch.tensor([85.0, 60.0, 40.0, 20.0])
    assert slices_with_organ(boxes, depths).tolist() == [True, False, True, False]
    assert not slices_with_organ(boxes[1:2], depths).any()


def test_means_are_over_series_and_intervals_by_patient() -> None:
    cases = [
        SliceCase("p", "s1", "liver", 1.0),
        SliceCase("p", "s2", "liver", 0.5),
        SliceCase("q", "s3", "liver", 0.0),
        SliceCase("q", "s3", "spleen", 0.25),
    ]
    found = summarise_slices(cases)
    assert found["liver"] == {"value": 0.5, "low": 0.0, "high": 0.75, "series": 3}
    assert found["spleen"] == {"value": 0.25, "low": 0.25, "high": 0.25, "series": 1}
