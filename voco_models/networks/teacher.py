"""The EMA teacher: an encoder that follows the student, and the schedule of its momentum."""

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
    """A slow copy of the student: all parameters and buffers by EMA, no gradient.

    It runs in training mode, so that batch norm uses the batch (the running statistics of a young
    network are far off), but its batch norms have momentum 0: their running statistics change by
    `follow` only.

    `legacy` does what the authors' code does: the EMA covers the backbone's parameters only, batch
    norms keep statistics of their own, and the teacher's projector is trained by gradient.
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
        """Embeddings as of `Encoder`."""
        with torch.set_grad_enabled(self._legacy and torch.is_grad_enabled()):
            embeddings: Tensor = self.encoder(crops)
        return embeddings

    @torch.no_grad()
    def follow(self, student: Encoder, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student; integer counters are copied."""
        if self._legacy:
            _average(self.encoder.backbone.parameters(), student.backbone.parameters(), momentum)
            return
        _average(self.encoder.parameters(), student.parameters(), momentum)
        _average(self.encoder.buffers(), student.buffers(), momentum)


def _average(averages: Iterable[Tensor], values: Iterable[Tensor], momentum: float) -> None:
    """One EMA update by torch's kernel.

    `AveragedModel` is not used: it copies at its first update, it reads a counter from the device
    at every update, which waits for the GPU, and it averages integer buffers.
    """
    pairs = list(zip(averages, values, strict=True))
    for average, value in pairs:
        if not average.is_floating_point():
            average.copy_(value)
    floats = [(average, value) for average, value in pairs if average.is_floating_point()]
    if floats:
        update = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        update([average for average, _ in floats], [value for _, value in floats], None)


def cosine_between(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` at progress 0 to `end` at progress 1: the EMA's momentum."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
