"""Maps over pictures: places on pixels, and colours."""

from __future__ import annotations

import numpy as np
import torch

from voco_models.explanation.overlay import HOT, MAX_OPACITY, blend, spread_map
from voco_models.explanation.pages import top_slices

WHOLE = ((0.0, 1.0), (0.0, 1.0))


def test_a_place_is_spread_over_its_pixels() -> None:
    plane = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    heat = spread_map(plane, WHOLE, (8, 12))
    assert heat.shape == (8, 12)
    assert heat[0, -1] == 1.0  # beyond the centre of the place: rows to posterior, columns to left
    assert heat[0, 0] == heat[-1, -1] == 0.0
    assert np.isclose(heat[3:5, 5:7].mean(), 0.25)  # in the middle of all four


def test_nothing_is_drawn_outside_of_the_view() -> None:
    heat = spread_map(torch.ones(3, 3), ((0.25, 0.75), (0.5, 1.0)), (8, 8))
    assert np.array_equal(np.argwhere(heat[:, 7] > 0).ravel(), [2, 3, 4, 5])
    assert np.array_equal(np.argwhere(heat[4] > 0).ravel(), [4, 5, 6, 7])


def test_colours_grow_with_the_map() -> None:
    grey = np.full((1, 3), 100, np.uint8)
    mixed = blend(grey, np.array([[0.05, 0.5, 1.0]], np.float32))
    assert mixed[0, 0].tolist() == [100, 100, 100]
    expected = [round(100 * (1 - MAX_OPACITY) + MAX_OPACITY * hot) for hot in HOT]
    assert mixed[0, 2].tolist() == expected
    assert mixed[0, 0, 0] < mixed[0, 1, 0] < mixed[0, 2, 0]


def test_the_first_slice_has_the_maximum() -> None:
    map_ = torch.zeros(4, 2, 2)
    map_[2, 0, 1], map_[0, 1, 1] = 3.0, 2.0
    assert top_slices(map_) == [2, 0]
