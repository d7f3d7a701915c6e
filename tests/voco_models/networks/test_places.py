"""Encodings of places, and what is computed from them by axis, beside the plain layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voco_data.labels.targets import ORGAN_TARGETS
from voco_models.networks.findings import FindingDetector
from voco_models.networks.heads import FeatureLayout, HeadOptions
from voco_models.networks.organ_queries import OrganQueryHead
from voco_models.networks.places import (
    ENCODED,
    PlaceEncoding,
    box_masks,
    encode_places,
    place_coordinates,
)

DEPTHS = torch.tensor([[-20.0, 3.0, 299.0, 640.0], [0.0, 7.0, 8.0, 593.0]])


def test_a_layer_by_axis_is_the_layer_of_all_places() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(ENCODED, 7)
    expected = layer(encode_places(place_coordinates(DEPTHS, (3, 5)))).flatten(2, 3)
    found = PlaceEncoding.of(DEPTHS, (3, 5)).project(layer.weight, layer.bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_queries_are_matched_with_the_keys_of_features_and_places() -> None:
    """By the definition: key(embedded + place(encoding)) . query / sqrt(D)."""
    torch.manual_seed(0)
    head = OrganQueryHead(FeatureLayout(6, (3, 5)), ORGAN_TARGETS, HeadOptions(hidden=8))
    embedded = torch.randn(2, 4, 15, 8)
    places = encode_places(place_coordinates(DEPTHS, (3, 5))).flatten(2, 3)
    expected = head.key(embedded + head.place(places)) @ head.queries.T / 8**0.5
    found = head._match(embedded, PlaceEncoding.of(DEPTHS, (3, 5)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_detector_sees_features_and_places() -> None:
    torch.manual_seed(0)
    detector, place = FindingDetector(8).eval(), nn.Linear(ENCODED, 8)
    features = torch.randn(2, 4, 15, 8)
    places = place(encode_places(place_coordinates(DEPTHS, (3, 5))).flatten(2, 3))
    largest = detector.hidden(features + places).amax(dim=2)
    expected = detector.score(detector.norm(largest.flatten(0, 1)).relu()).reshape(2, 4)
    found = detector(features, PlaceEncoding.of(DEPTHS, (3, 5)), place).slices
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("places", [(1, 1), (4, 3)])
def test_masks_are_comparisons_of_coordinates(places: tuple[int, int]) -> None:
    """Each place alone: inside if all its coordinates are within the box; NaN is outside."""
    torch.manual_seed(1)
    boxes = torch.rand(2, 3, 2, 3).sort(dim=2).values * torch.tensor([600.0, 1, 1])
    boxes[0, 1] = torch.nan
    masks = box_masks(boxes, DEPTHS, places)
    at = place_coordinates(DEPTHS, places)
    for b, r, z, y, x in torch.cartesian_prod(*map(torch.arange, masks.shape)).tolist():
        (low, high), point = boxes[b, r].tolist(), at[b, z, y, x].tolist()
        inside = all(a <= c <= d for a, c, d in zip(low, point, high, strict=True))
        assert bool(masks[b, r, z, y, x]) == inside
