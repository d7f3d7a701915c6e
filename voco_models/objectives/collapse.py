"""Signs of collapse in pretraining: the losses of constant cosines, and the effective rank.

A collapsed encoder gives equal embeddings for all crops, so all cosines are equal.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from voco_models.objectives.crops import CropPlan, TargetMode, overlap_targets
from voco_models.objectives.losses import LossOptions, agreement_loss, cosines

log = logging.getLogger(__name__)

LOSS_TOLERANCE = 0.02
"""An intra loss this close to that of constant cosines, as a fraction of it, is a sign."""
RANK_ALARM = 1.5
"""An effective rank below this is a sign: all embeddings have nearly the same direction."""
PATIENCE = 5
"""Consecutive rows of the history that must show a sign before it is reported."""
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
    return len(rows) ** 2 / cosines(rows, rows).square().sum()


class CollapseWatch:
    """Checks the rows of the history and warns of each sign of collapse once.

    `alarms` are the warnings so far.
    """

    def __init__(self, losses: ConstantCosineLosses) -> None:
        self._constant_losses = {
            f"all cosines at 0 give {losses.at_zero:.3f}": losses.at_zero,
            f"all cosines at {losses.best_cosine:.2f} give {losses.lowest:.3f}": losses.lowest,
        }
        self._recent: deque[dict[str, float]] = deque(maxlen=PATIENCE)
        self.alarms: list[str] = []

    def __call__(self, row: dict[str, float]) -> None:
        """Check a row with `step`, `intra` and `rank`, together with the rows before it."""
        self._recent.append(row)
        if len(self._recent) < PATIENCE:
            return
        for cause, loss in self._constant_losses.items():
            if all(abs(r["intra"] - loss) <= LOSS_TOLERANCE * loss for r in self._recent):
                self._warn(row, f"the intra loss sits where a network learns nothing ({cause})")
        if all(r["rank"] < RANK_ALARM for r in self._recent):
            self._warn(row, f"the embeddings have an effective rank below {RANK_ALARM}")

    def _warn(self, row: dict[str, float], sign: str) -> None:
        if not any(sign in alarm for alarm in self.alarms):
            self.alarms.append(f"step {int(row['step'])}: {sign}")
            log.warning("collapse? %s", self.alarms[-1])
