"""Activations that are computed again in the backward pass instead of kept: less memory, more time.

PyTorch's `torch.utils.checkpoint` does it, with the random numbers of the forward pass, so that
dropout and stochastic depth are the same.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Recompute = Literal["off", "blocks", "calls"]
"""What the classifier computes again: nothing; what is inside the blocks of the backbone; or each
call of the backbone on `images_per_call` slices."""


class StatisticsGuard:
    """Undoes what a backward pass that computes activations again does to batch norm statistics.

    Batch norm would update its running statistics twice. Call `keep` after the forward pass and
    `restore` after the backward pass.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []
        """Buffers, and copies of their values."""

    def keep(self, network: nn.Module) -> None:
        """Copy the buffers of `network`."""
        self._kept = [(buffer, buffer.clone()) for buffer in network.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Set the buffers to their copies, once; nothing without `keep`."""
        for buffer, value in self._kept:
            buffer.copy_(value)
        self._kept = []
