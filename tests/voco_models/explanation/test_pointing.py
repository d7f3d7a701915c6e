"""The pointing game on maps and boxes whose answers are known by hand."""

from __future__ import annotations

import math

import pytest
import torch

from voco_models.explanation.pointing import (
    Pointing,
    boxes_in_view,
    inside_boxes,
    maximum_of,
    point,
    summarise_pointing,
)

DEPTHS = torch.tensor([30.0, 20.0, 10.0])
BOX = torch.tensor([[[5.0, 0.0, 0.5], [22.0, 0.5, 1.0]]])
"""The two superior slices, the anterior half, the patient's left half."""


def test_the_maximum_inside_the_box_is_a_hit() -> None:
    inside = inside_boxes(BOX, DEPTHS, (2, 4))
    assert inside.nonzero().tolist() == [[1, 0, 2], [1, 0, 3], [2, 0, 2], [2, 0, 3]]
    map_ = torch.zeros(3, 2, 4)
    map_[1, 0, 3] = 1
    assert maximum_of(map_) == (1, 0, 3)
    assert point(map_, inside) == (1.0, pytest.approx(4 / 24))
    map_[1, 1, 3] = 2
    assert point(map_, inside)[0] == 0.0


def test_a_map_without_contrast_has_the_hit_of_chance() -> None:
    inside = inside_boxes(BOX, DEPTHS, (2, 4))
    hit, chance = point(torch.full((3, 2, 4), 0.3), inside)
    assert hit == pytest.approx(chance)


def test_several_boxes_are_one_organ_and_unknown_ones_none() -> None:
    unknown = torch.full((1, 2, 3), math.nan)
    both = torch.cat([BOX, unknown])
    assert torch.equal(inside_boxes(both, DEPTHS, (2, 4)), inside_boxes(BOX, DEPTHS, (2, 4)))
    assert not inside_boxes(unknown, DEPTHS, (2, 4)).any()


def test_boxes_of_a_window_of_the_plane() -> None:
    moved = boxes_in_view(BOX, ((0.25, 0.75), (0.5, 1.0)))
    assert moved.tolist() == [[[5.0, -0.5, 0.0], [22.0, 0.5, 1.0]]]


def test_ratios_are_of_means_and_draws_are_one_case() -> None:
    cases = [
        Pointing("p", "s", "liver", 1.0, 0.25),
        Pointing("p", "s", "liver", 0.0, 0.25),
        Pointing("q", "t", "liver", 1.0, 0.15),
        Pointing("q", "t", "spleen", 1.0, 0.05),
    ]
    found = summarise_pointing(cases)
    assert found["all"]["cases"] == 3
    assert found["all"]["patients"] == 2
    ratio = found["all"]["ratio"]
    assert isinstance(ratio, dict)
    assert ratio["value"] == pytest.approx(0.75 / 0.175)
    assert ratio["low"] == pytest.approx(0.5 / 0.25)  # patient p drawn twice
    assert ratio["high"] == pytest.approx(1.0 / 0.1)
    assert found["spleen"]["hits"] == {"value": 1.0, "low": 1.0, "high": 1.0}
