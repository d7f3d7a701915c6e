"""Averages of networks over steps: the EMA teacher, and the schedule of its momentum."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from voco_models.networks.encoder import Encoder


class Teacher(nn.Module):
    """The exponential moving average of the student's parameters and buffers, without gradient.

    The teacher runs in training mode, so batch norm uses the statistics of the batch. Early in
    training, the running statistics differ much from them. Its batch norms have momentum 0, so
    their running statistics change by `update` only.

    With `legacy`, as in the authors' code, the EMA covers the parameters of the backbone only,
    batch norms update their own statistics, and the teacher's projector is trained by gradient.
    """

    def __init__(self, student: Encoder, *, legacy: bool = False) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student).requires_grad_(False)
        self._legacy = legacy
        if legacy:
            self.encoder.projector.requires_grad_(True)
            return
        for module in self.encoder.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = 0.0

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings of crops, with the shapes of `Encoder.forward`."""
        with torch.set_grad_enabled(self._legacy and torch.is_grad_enabled()):
            embeddings: Tensor = self.encoder(crops)
        return embeddings

    @torch.no_grad()
    def update(self, student: Encoder, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student; integers are copied."""
        if self._legacy:
            _update_averages(
                self.encoder.backbone.parameters(), student.backbone.parameters(), momentum
            )
            return
        update_average(self.encoder, student, momentum)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, momentum: float) -> None:
    """average <- momentum * average + (1 - momentum) * network; integers are copied.

    All parameters and buffers, in place; `average` is a copy of `network` at an earlier step.
    """
    _update_averages(average.parameters(), network.parameters(), momentum)
    _update_averages(average.buffers(), network.buffers(), momentum)


def _update_averages(averages: Iterable[Tensor], values: Iterable[Tensor], momentum: float) -> None:
    """One EMA update with torch's kernel; integers are copied.

    `AveragedModel` does not fit: its first update is a copy, it averages integer buffers, and it
    reads a counter from the device at every update, which waits for the GPU.
    """
    pairs = list(zip(averages, values, strict=True))
    for average, value in pairs:
        if not average.is_floating_point():
            average.copy_(value)
    floats = [(average, value) for average, value in pairs if average.is_floating_point()]
    if floats:
        update = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        update([average for average, _ in floats], [value for _, value in floats], None)


def cosine_schedule(start: float, end: float, progress: float) -> float:
    """The EMA's momentum: half a cosine from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
