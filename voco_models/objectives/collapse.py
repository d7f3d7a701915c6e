"""Measures of collapse in pretraining: the losses of constant cosines, and the effective rank.

A collapsed encoder gives equal embeddings for all crops, so all cosines are equal. The warnings are
in `alarms.py`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from voco_models.objectives.crops import CropPlan, TargetMode, overlap_targets
from voco_models.objectives.losses import LossOptions, agreement_loss, cosines

SAMPLES = 2048
"""Volumes whose random crops are drawn to estimate the losses of constant cosines."""
CONSTANTS = 101
"""Constant cosines tried, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class ConstantCosineLosses:
    """Intra losses of networks whose cosines are all equal."""

    at_zero: float
    """Loss where all cosines are 0."""
    lowest: float
    """Lowest loss that equal cosines can have."""
    best_cosine: float
    """Cosine with the lowest loss."""


@functools.cache
@torch.no_grad()
def constant_cosine_losses(
    plan: CropPlan, mode: TargetMode, options: LossOptions, *, samples: int = SAMPLES, seed: int = 0
) -> ConstantCosineLosses:
    """Losses of constant cosines for these crops, targets and loss options.

    A Monte Carlo estimate over the random crops of `samples` volumes.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = overlap_targets(plan.draw_boxes(samples, generator), plan.base_boxes(), mode)
    constants = torch.linspace(0, 1, CONSTANTS).tolist()
    losses = [
        agreement_loss(torch.full_like(targets, constant), targets, options).item()
        for constant in constants
    ]
    best = min(range(CONSTANTS), key=losses.__getitem__)
    return ConstantCosineLosses(at_zero=losses[0], lowest=losses[best], best_cosine=constants[best])


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Number of directions that embeddings (..., D) use: from 1 (all equal) to min(rows, D).

    The participation ratio, (sum of eigenvalues)^2 / (sum of squared eigenvalues), of the Gram
    matrix of cosines. It equals rows^2 / (sum of squared cosines).
    """
    rows = embeddings.flatten(end_dim=-2)
    squares = cosines(rows, rows).square().sum()
    # Embeddings of length 0 have no direction. They count as collapsed, not as inf.
    return torch.where(squares > 0, len(rows) ** 2 / squares, torch.ones_like(squares))
