"""Signs of collapse in pretraining: losses of constant cosines, and the effective rank."""

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

LEVEL_TOLERANCE = 0.02
"""An intra loss within this fraction of a level sits at the level."""
RANK_ALARM = 1.5
"""Below this effective rank, all embeddings point nearly the same way."""
PATIENCE = 5
"""Consecutive rows of the history that must show a sign before it is reported."""
SAMPLES = 2048
"""Volumes whose random crops are drawn to compute the levels."""
CONSTANTS = 101
"""Constant cosines tried, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Levels:
    """Intra losses of networks whose cosines are all the same."""

    zero: float
    """All cosines are 0."""
    best: float
    """All cosines are the one constant that gives the least loss."""
    at: float
    """That constant."""


@functools.cache
@torch.no_grad()
def constant_levels(
    plan: CropPlan, mode: TargetMode, options: LossOptions, *, samples: int = SAMPLES, seed: int = 0
) -> Levels:
    """Levels for these crops, targets and loss, by Monte Carlo over `samples` volumes."""
    generator = torch.Generator().manual_seed(seed)
    targets = overlap_targets(plan.draw(samples, generator), plan.base(), mode)
    constants = torch.linspace(0, 1, CONSTANTS).tolist()
    losses = [
        agreement_loss(torch.full_like(targets, constant), targets, options).item()
        for constant in constants
    ]
    best = min(range(CONSTANTS), key=losses.__getitem__)
    return Levels(zero=losses[0], best=losses[best], at=constants[best])


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Number of directions that embeddings (..., D) use: from 1 (all alike) to min(rows, D).

    The participation ratio (sum of eigenvalues)^2 / sum of squared eigenvalues of the cosines'
    Gram matrix, which needs no eigenvalues: rows^2 / sum of squared cosines.
    """
    rows = embeddings.flatten(end_dim=-2)
    return len(rows) ** 2 / cosines(rows, rows).square().sum()


class CollapseWatch:
    """Reads the rows of the history and warns of signs of collapse, once for each sign."""

    def __init__(self, levels: Levels) -> None:
        self._levels = {
            f"all cosines at 0 give {levels.zero:.3f}": levels.zero,
            f"all cosines at {levels.at:.2f} give {levels.best:.3f}": levels.best,
        }
        self._recent: deque[dict[str, float]] = deque(maxlen=PATIENCE)
        self.alarms: list[str] = []

    def __call__(self, row: dict[str, float]) -> None:
        """Check a row with `step`, `intra` and `rank`, together with the rows before it."""
        self._recent.append(row)
        if len(self._recent) < PATIENCE:
            return
        for cause, level in self._levels.items():
            if all(abs(r["intra"] - level) <= LEVEL_TOLERANCE * level for r in self._recent):
                self._warn(row, f"the intra loss sits where a network learns nothing ({cause})")
        if all(r["rank"] < RANK_ALARM for r in self._recent):
            self._warn(row, f"the embeddings have an effective rank below {RANK_ALARM}")

    def _warn(self, row: dict[str, float], sign: str) -> None:
        if not any(sign in alarm for alarm in self.alarms):
            self.alarms.append(f"step {int(row['step'])}: {sign}")
            log.warning("collapse? %s", self.alarms[-1])
