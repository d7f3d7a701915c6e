"""Timed steps of pretraining: the production objective and engine, and sources of batches."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from voco_data.store import StoreSpec
from voco_models.bench.device import make_volumes, peak_memory, synchronise
from voco_models.data import Batch, step_seed
from voco_models.stages import PretrainRecipe, build_objective
from voco_models.training import BatchSource, TrainState, prepare, take_step

CACHED_BATCHES = 4
"""Batches of volumes that a synthetic source repeats."""


@dataclass(frozen=True, slots=True)
class SyntheticBatches:
    """Batches of random volumes that are on the device already."""

    volumes: Tensor
    """uint8 (batches * batch_size, Z, Y, X), on the device."""
    batch_size: int

    @classmethod
    def make(
        cls,
        batch_size: int,
        grid: tuple[int, int, int],
        device: torch.device,
        batches: int = CACHED_BATCHES,
    ) -> SyntheticBatches:
        """So many different batches of `batch_size` volumes of `grid`."""
        return cls(make_volumes(batches * batch_size, grid, device), batch_size)

    def batches_from(self, step: int) -> Generator[Batch, None, None]:
        """Batches number `step`, `step + 1`, ... without end."""
        for number in itertools.count(step):
            start = number * self.batch_size % len(self.volumes)
            items = torch.arange(start, start + self.batch_size)
            yield Batch(self.volumes[start : start + self.batch_size], items, step_seed(0, number))


@dataclass(slots=True)
class TimedSteps:
    """Takes steps of a training, and records how long each took."""

    recipe: PretrainRecipe
    state: TrainState
    device: torch.device
    stream: Generator[Batch, None, None]
    seconds: list[float] = field(default_factory=list)
    """Time of each step, with the wait for its batches, until the device has finished."""
    waits: list[float] = field(default_factory=list)
    """Time of each step in which it waited for its batches."""
    processor: list[float] = field(default_factory=list)
    """Processor time of each step, in all threads. Other load on the machine changes it less."""

    @classmethod
    def begin(
        cls, recipe: PretrainRecipe, spec: StoreSpec, source: BatchSource, device: torch.device
    ) -> TimedSteps:
        """Build the objective of `recipe` for stores of `spec`, and its optimiser."""
        state = prepare(build_objective(recipe, spec), recipe.fit, device)
        return cls(recipe, state, device, source.batches_from(0))

    def take(self, count: int) -> None:
        """Take `count` steps. Only times are kept."""
        for _ in range(count):
            synchronise(self.device)
            began, used = time.perf_counter(), time.process_time()
            batches = [next(self.stream) for _ in range(self.recipe.fit.accumulate)]
            waited = time.perf_counter() - began
            take_step(self.state, batches, self.recipe.fit)
            synchronise(self.device)
            self.seconds.append(time.perf_counter() - began)
            self.processor.append(time.process_time() - used)
            self.waits.append(waited)

    def report(self) -> dict[str, Any]:
        """Times since the last report, and the peak memory of the process so far."""
        times = {"seconds": self.seconds, "waits": self.waits, "processor": self.processor}
        self.seconds, self.waits, self.processor = [], [], []
        return times | peak_memory(self.device)


def make_eager(state: TrainState) -> None:
    """Give the backbones of a 2D objective PyTorch's default memory format, NCHW, in place."""
    objective: Any = state.objective
    for encoder in (objective.student, objective.teacher.encoder):
        backbone: nn.Module = encoder.backbone
        backbone.memory_format = torch.contiguous_format  # type: ignore[assignment]
        backbone.to(memory_format=torch.contiguous_format)


def without_amp(recipe: PretrainRecipe) -> PretrainRecipe:
    """The same recipe in float32."""
    return dataclasses.replace(recipe, fit=dataclasses.replace(recipe.fit, amp=False))
