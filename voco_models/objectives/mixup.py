"""Mixup: a volume and its partner are added, and so are their losses (Zhang et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data import step_seed

MIXUP_STREAM = 1
"""Stream of a volume's random choices; views and augmentation have stream 0."""


def check_pairs(n_volumes: int) -> None:
    """Raise InputError unless a process's batch of so many volumes can be mixed."""
    if n_volumes % 2:
        raise InputError(
            "recipe: mixup_alpha needs an even batch_size, also in each process, got a batch of "
            f"{n_volumes}; change batch_size, or set mixup_alpha to 0"
        )


def draw_shares(alpha: float, seed: int, keys: Sequence[int]) -> Tensor:
    """Shares lambda of B volumes in their mixtures, from Beta(alpha, alpha); float32 (B,).

    `seed` is that of the batch, and `keys` are its `Batch.draw_keys`.
    """
    generators = [np.random.default_rng(step_seed(seed, key, MIXUP_STREAM)) for key in keys]
    shares = [generator.beta(alpha, alpha) for generator in generators]
    return torch.tensor(shares, dtype=torch.float32)


def partners(values: Tensor) -> Tensor:
    """The row of each row's partner in `values` (B, ...): the one half a batch away.

    B must be even. Row j of process r of n is row j * n + r of the joined batch, so that the
    partners in a process are those in the joined batch.
    """
    return values.roll(len(values) // 2, dims=0)


def mix(volumes: Tensor, shares: Tensor) -> Tensor:
    """lambda * volume + (1 - lambda) * partner of volumes (B, ...), with `shares` (B,)."""
    factors = shares.view(-1, *[1] * (volumes.dim() - 1))
    return factors * volumes + (1 - factors) * partners(volumes)
