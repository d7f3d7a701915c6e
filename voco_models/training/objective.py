"""The interfaces that the engine connects: an objective, a source of batches, and monitors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from voco_models.data.loader import Batch

if TYPE_CHECKING:
    from voco_models.training.train_state import TrainState


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


class Monitor(Protocol):
    """Observes a training run, and cannot change it: see `training.hooks.undisturbed`."""

    @property
    def every(self) -> int:
        """Steps from one call to the next."""

    def observe(self, state: TrainState) -> None:
        """Called after every `every`-th step, without gradients. `state` is to be read only.

        What it raises ends the training.
        """
