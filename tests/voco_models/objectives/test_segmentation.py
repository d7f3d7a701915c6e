"""The loss of maps, computed by hand, and the pairs of sample and channel that it leaves out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from voco_models.objectives.segmentation import batch_dice_loss, bce_loss, dice_bce_loss


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def example() -> tuple[Tensor, Tensor]:
    """2 samples, 2 channels, maps of 1 x 2 pixels."""
    probabilities = [[[[0.5, 0.5]], [[0.9, 0.1]]], [[[0.8, 0.2]], [[0.25, 0.75]]]]
    targets = [[[[1.0, 0.0]], [[1.0, 0.0]]], [[[1.0, 1.0]], [[0.0, 0.0]]]]
    return torch.tensor(probabilities).logit(), torch.tensor(targets)


def test_the_loss_by_hand() -> None:
    logits, targets = example()
    # channel 0: both = .5 + .8 + .2, total = 2 + 3; channel 1: both = .9, total = 2 + 1
    dice = (1 - (2 * 1.5 + 1) / (5 + 1) + 1 - (2 * 0.9 + 1) / (3 + 1)) / 2
    of_truth = [0.5, 0.5, 0.9, 0.9, 0.8, 0.2, 0.75, 0.25]
    bce = -sum(math.log(p) for p in of_truth) / 8
    assert batch_dice_loss(logits, targets).item() == pytest.approx(dice, abs=1e-6)
    assert bce_loss(logits, targets).item() == pytest.approx(bce, abs=1e-6)
    assert dice_bce_loss(logits, targets).item() == pytest.approx((dice + bce) / 2, abs=1e-6)


def test_channels_without_a_label_are_left_out() -> None:
    """Sample 0 does not know channel 0: what it predicts there, and its target, do not matter."""
    logits, targets = example()
    labelled = torch.tensor([[False, True], [True, True]])
    dice = (1 - (2 * 1.0 + 1) / (3 + 1) + 1 - (2 * 0.9 + 1) / (3 + 1)) / 2
    bce = -sum(math.log(p) for p in [0.9, 0.9, 0.8, 0.2, 0.75, 0.25]) / 6
    targets[0, 0] = torch.nan
    for of_unlabelled in (0.0, 5.0):
        logits[0, 0] = of_unlabelled
        found = dice_bce_loss(logits, targets, labelled)
        assert found.item() == pytest.approx((dice + bce) / 2, abs=1e-6)


def test_a_channel_that_no_sample_knows_is_no_part_of_the_mean() -> None:
    logits, targets = example()
    labelled = torch.tensor([[True, False], [True, False]])
    expected = dice_bce_loss(logits[:, :1], targets[:, :1])
    torch.testing.assert_close(dice_bce_loss(logits, targets, labelled), expected)


def test_unlabelled_maps_have_no_gradient() -> None:
    logits, targets = example()
    logits.requires_grad_()
    labelled = torch.tensor([[False, True], [True, True]])
    dice_bce_loss(logits, targets, labelled).backward()
    assert logits.grad is not None
    assert logits.grad.flatten(2).any(dim=2).tolist() == labelled.tolist()


def test_nothing_labelled_is_a_loss_of_0_with_gradients_of_0() -> None:
    logits, targets = example()
    logits.requires_grad_()
    loss = dice_bce_loss(logits, targets, torch.zeros(2, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dice_is_of_the_batch() -> None:
    """Not the mean of the samples' Dice: an empty map has no term of its own."""
    targets = torch.zeros(2, 1, 4, 4)
    targets[0] = 1
    logits = torch.full_like(targets, logit(0.5))
    expected = 1 - (2 * 8 + 1) / (16 + 16 + 1)
    assert batch_dice_loss(logits, targets).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float64])
def test_targets_may_have_any_type(dtype: torch.dtype) -> None:
    logits, targets = example()
    found = dice_bce_loss(logits, targets.to(dtype)).float()
    torch.testing.assert_close(found, dice_bce_loss(logits, targets))


def test_the_right_map_has_no_loss_and_an_empty_map_is_right_where_nothing_is() -> None:
    _, targets = example()
    certain = 40 * (2 * targets - 1)
    assert dice_bce_loss(certain, targets).item() == pytest.approx(0, abs=1e-6)
    assert batch_dice_loss(certain, targets).item() == pytest.approx(0, abs=1e-6)
    nothing = torch.zeros_like(targets)
    assert dice_bce_loss(nothing - 40, nothing).item() == pytest.approx(0, abs=1e-6)


def test_bf16_logits_give_a_loss_in_float32() -> None:
    logits, targets = example()
    rounded = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = dice_bce_loss(rounded, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dice_bce_loss(rounded.float(), targets))


def test_shapes_that_would_be_broadcast_are_refused() -> None:
    logits, targets = example()
    with pytest.raises(ValueError, match=r"got \(2, 2, 1, 2\) and \(2, 1, 1, 2\)"):
        dice_bce_loss(logits, targets[:, :1])
    with pytest.raises(ValueError, match=r"labelled of shape \(2, 2\), got \(2,\)"):
        dice_bce_loss(logits, targets, torch.ones(2, dtype=torch.bool))
