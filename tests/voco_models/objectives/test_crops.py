"""Boxes, overlaps and extraction, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from voco_data.errors import InputError
from voco_models.objectives.crops import (
    Boxes,
    CropPlan,
    copy_crops,
    extract_crops,
    index_crops,
    overlap_targets,
)

PLAN = CropPlan((192, 192))


def box(*corners: tuple[int, int], side: int = 64) -> Boxes:
    return Boxes(torch.tensor(corners), (side, side))


def test_base_crops_tile_the_plane_row_by_row() -> None:
    base = PLAN.base_boxes()
    assert base.size == (64, 64)
    assert base.corners.tolist() == [[y, x] for y in (0, 64, 128) for x in (0, 64, 128)]


def test_a_plane_that_is_not_square_gives_crops_that_are_not_square() -> None:
    base = CropPlan((60, 90), grid=2).base_boxes()
    assert base.size == (30, 45)
    assert base.corners.tolist() == [[0, 0], [0, 45], [30, 0], [30, 45]]


def test_one_crop_covers_all() -> None:
    assert CropPlan((64, 64), grid=1).base_boxes().corners.tolist() == [[0, 0]]


@pytest.mark.parametrize("plane", [(256, 256), (192, 191), (2, 192)])
def test_a_plane_that_the_grid_does_not_divide_is_refused(plane: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="multiples of 3"):
        CropPlan(plane)


def test_overlap_of_a_shifted_crop_by_hand() -> None:
    # Shifted by 16 down and 32 right of the grid: (3/4, 1/4) x (1/2, 1/2) of four neighbours.
    overlap = overlap_targets(box((16, 32)), PLAN.base_boxes())[0].reshape(3, 3)
    expected = torch.tensor([[0.375, 0.375, 0], [0.125, 0.125, 0], [0, 0, 0]])
    assert torch.equal(overlap, expected)


def test_iou_of_equal_squares_is_o_over_two_minus_o() -> None:
    iou = overlap_targets(box((16, 32)), PLAN.base_boxes(), "iou")[0].reshape(3, 3)
    assert iou[0, 0].item() == pytest.approx(0.375 / 1.625)
    assert iou[1, 1].item() == pytest.approx(0.125 / 1.875)
    assert iou[2].tolist() == [0, 0, 0]
    assert overlap_targets(box((64, 64)), PLAN.base_boxes(), "iou")[0, 4].item() == 1


def test_iou_of_squares_of_two_sizes() -> None:
    # 2 x 2 inside 4 x 4: intersection 4, union 16.
    iou = overlap_targets(box((1, 1), side=2), box((0, 0), side=4), "iou")
    assert iou.item() == 0.25


def test_crops_that_only_touch_do_not_overlap() -> None:
    assert overlap_targets(box((0, 0)), box((0, 64), (64, 0), (64, 64))).tolist() == [[0, 0, 0]]


def test_rows_of_overlaps_sum_to_one_and_reach_every_place() -> None:
    random = PLAN.draw_boxes(3000, torch.Generator().manual_seed(1))
    overlap = overlap_targets(random, PLAN.base_boxes())
    assert overlap.shape == (3000, 2, 9)
    torch.testing.assert_close(overlap.sum(-1), torch.ones(3000, 2))
    assert random.corners.min() == 0
    assert random.corners.max() == 128
    # Uniform over 129 places an axis: the mean is 64, its standard error 0.34.
    assert random.corners.float().mean(dim=(0, 1)).tolist() == pytest.approx([64, 64], abs=2)


def test_draws_repeat_with_the_generator() -> None:
    first, again, other = (
        PLAN.draw_boxes(4, torch.Generator().manual_seed(seed)).corners for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_extract_cuts_what_slicing_cuts() -> None:
    volumes = torch.randint(0, 256, (2, 5, 30, 40), dtype=torch.uint8)
    corners = torch.tensor([[[0, 0], [20, 27]], [[3, 9], [11, 2]]])
    crops = extract_crops(volumes, Boxes(corners, (10, 13)))
    assert crops.shape == (2, 2, 5, 10, 13)
    assert crops.dtype == torch.uint8
    for b in range(2):
        for n in range(2):
            y, x = corners[b, n].tolist()
            assert torch.equal(crops[b, n], volumes[b, :, y : y + 10, x : x + 13])


def test_crops_by_index_are_those_by_copy() -> None:
    volumes = torch.arange(2 * 3 * 12 * 8, dtype=torch.int16).reshape(2, 3, 12, 8)[:, ::2]
    corners = torch.tensor([[[0, 0], [8, 5]], [[7, 1], [3, 3]]])
    by_index, by_copy = (cut(volumes, corners, (4, 3)) for cut in (index_crops, copy_crops))
    assert by_index.shape == (2, 2, 2, 4, 3)
    assert torch.equal(by_index, by_copy)
    assert by_index[0, 1, 1, 0, 0] == volumes[0, 1, 8, 5] == 2 * 12 * 8 + 8 * 8 + 5


def test_base_crops_put_together_are_the_volume() -> None:
    volumes = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    crops = extract_crops(volumes, CropPlan((12, 12)).base_boxes())  # (B, 9, Z, 4, 4)
    rows = [torch.cat(list(crops[:, 3 * r : 3 * r + 3].unbind(1)), dim=-1) for r in range(3)]
    assert torch.equal(torch.cat(rows, dim=-2), volumes)
