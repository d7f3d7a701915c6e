"""Segmentation of maps with one sigmoid a channel: (batch Dice + binary cross-entropy) / 2.

The loss of Morano et al. (MICCAI 2023). Channels may overlap, as the projections of organs do. A
mask that does not label a channel says nothing about it: such pairs of sample and channel are left
out of both terms.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH_PX = 1.0
"""Added to numerator and denominator of Dice: 1 pixel, so that two empty maps have Dice 1."""


def dice_bce_loss(logits: Tensor, targets: Tensor, labelled: Tensor | None = None) -> Tensor:
    """Mean of `batch_dice_loss` and `bce_loss`, a scalar.

    `logits` and `targets` are (N, C, Z, W); targets are from 0 to 1, of any type. `labelled`
    (N, C), bool, says which channels of a sample the targets know; all, if it is not given. Where
    nothing is labelled the loss and its gradients are 0, since a check would wait for the device.
    Computed in float32 (or float64), also under autocast. Raises ValueError for shapes that do not
    match.
    """
    return (batch_dice_loss(logits, targets, labelled) + bce_loss(logits, targets, labelled)) / 2


def batch_dice_loss(logits: Tensor, targets: Tensor, labelled: Tensor | None = None) -> Tensor:
    """1 - Dice, the sums of Dice over all samples of the batch; a mean over labelled channels.

    Arguments as in `dice_bce_loss`.
    """
    scores, truth, known = _prepared(logits, targets, labelled)
    probabilities = scores.sigmoid().where(known, 0)
    over = (0, 2, 3)
    both = (probabilities * truth).sum(over)
    total = (probabilities + truth).sum(over)
    losses = 1 - (2 * both + SMOOTH_PX) / (total + SMOOTH_PX)  # (C,)
    is_labelled = known[:, :, 0, 0].any(dim=0)
    return losses.where(is_labelled, 0).sum() / is_labelled.sum().clamp(min=1)


def bce_loss(logits: Tensor, targets: Tensor, labelled: Tensor | None = None) -> Tensor:
    """Binary cross-entropy: a mean over the pixels of labelled pairs of sample and channel.

    Arguments as in `dice_bce_loss`.
    """
    scores, truth, known = _prepared(logits, targets, labelled)
    cells = functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    per_channel = cells.mean(dim=(2, 3), keepdim=True).where(known, 0)
    return per_channel.sum() / known.sum().clamp(min=1)


def _prepared(
    logits: Tensor, targets: Tensor, labelled: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets as floats, targets 0 where not labelled, and `labelled` (N, C, 1, 1)."""
    if logits.shape != targets.shape or logits.ndim != 4:
        raise ValueError(
            f"segmentation: expected logits and targets (N, C, Z, W), got {tuple(logits.shape)} "
            f"and {tuple(targets.shape)}"
        )
    if labelled is None:
        labelled = logits.new_ones(logits.shape[:2], dtype=torch.bool)
    if labelled.shape != logits.shape[:2]:
        raise ValueError(
            f"segmentation: expected labelled of shape {tuple(logits.shape[:2])}, got "
            f"{tuple(labelled.shape)}"
        )
    known = labelled.bool()[:, :, None, None]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), targets.to(dtype).where(known, 0), known
