"""The interfaces that the engine connects: an objective and a source of batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from typing import Any, Protocol

from torch import Tensor, nn

from voco_models.data import Batch


class Objective(nn.Module):
    """What `engine.fit` trains: networks and a loss in one module."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of this batch: `loss`, which is minimised, and any others, which are logged."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step; `progress` in (0, 1] is the share of the steps done.

        The place for an EMA teacher. Does nothing by default.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; a group may carry `lr_scale`, a factor of the learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


class BatchSource(Protocol):
    """A stream of batches that can start at any step and is the same each time."""

    def at(self, step: int) -> Generator[Batch, None, None]:
        """Batches number `step`, `step + 1`, ... without end."""
