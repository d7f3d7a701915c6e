"""The interfaces that the engine uses: an objective and a source of batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from typing import Any, Protocol

from torch import Tensor, nn

from voco_models.data import Batch


class Objective(nn.Module):
    """Networks and a loss in one module, trained by `engine.fit`."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a batch by name: `loss` is minimised, all are logged."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, such as to update an EMA teacher. Does nothing here.

        `progress` in (0, 1] is the fraction of the steps that are done.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; a group may have `lr_scale`, a factor of the learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


class BatchSource(Protocol):
    """A deterministic stream of batches that can start at any step."""

    def batches_from(self, step: int) -> Generator[Batch, None, None]:
        """Batches number `step`, `step + 1`, ... without end."""
