"""Optimisers as values of a recipe; the engine builds them.

Learning rate and weight decay are fields of the recipe itself, because every optimiser has them and
the schedule changes the learning rate. To add an optimiser, write a dataclass with `moments` and
`build`, and add it to `Optimizer` and `KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from voco_data.errors import InputError

ParameterGroups: TypeAlias = list[dict[str, Any]]
"""Parameter groups of torch's optimisers; a group may have `lr_scale`."""
Decayed = Literal["all", "matrices"]
Fused = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    kind: Literal["adamw"] = "adamw"
    """Kind of the optimiser: `adamw`, or `sgd`, which has other options."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the denominator."""
    decayed: Decayed = "all"
    """Parameters with weight decay: `all`, or `matrices`, which leaves out biases and norms."""
    fused: Fused = "auto"
    """Use torch's fused kernel; `auto`: on CUDA only."""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"recipe: betas must be from 0 to below 1, got {self.betas}")
        if not 0 < self.eps < math.inf:
            raise InputError(f"recipe: eps must be > 0, got {self.eps}")

    def moments(self, *, amsgrad: bool) -> int:
        """Tensors that it keeps per trainable parameter."""
        return 3 if amsgrad else 2

    def build(
        self,
        groups: ParameterGroups,
        *,
        lr: float,
        weight_decay: float,
        amsgrad: bool,
        device: torch.device,
    ) -> torch.optim.Optimizer:
        """The optimiser of the parameters in `groups`, which are on `device`."""
        return torch.optim.AdamW(
            split_decayed(groups, self.decayed),
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            fused=use_fused(self.fused, device),
        )


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent with momentum; the weight decay is added to the gradient."""

    kind: Literal["sgd"] = "sgd"
    """Kind of the optimiser."""
    momentum: float = 0.9
    """Decay of the average of the gradient; 0 for none."""
    nesterov: bool = False
    """Use Nesterov's momentum."""
    decayed: Decayed = "all"
    """Parameters with weight decay: `all`, or `matrices`, which leaves out biases and norms."""
    fused: Fused = "auto"
    """Use torch's fused kernel; `auto`: on CUDA only."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise InputError(f"recipe: momentum must be from 0 to below 1, got {self.momentum}")
        if self.nesterov and not self.momentum:
            raise InputError("recipe: nesterov needs a momentum > 0")

    def moments(self, *, amsgrad: bool) -> int:
        """Tensors that it keeps per trainable parameter."""
        del amsgrad  # an option of Adam
        return 1 if self.momentum else 0

    def build(
        self,
        groups: ParameterGroups,
        *,
        lr: float,
        weight_decay: float,
        amsgrad: bool,
        device: torch.device,
    ) -> torch.optim.Optimizer:
        """The optimiser of the parameters in `groups`, which are on `device`."""
        del amsgrad  # an option of Adam
        return torch.optim.SGD(
            split_decayed(groups, self.decayed),
            lr=lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=weight_decay,
            fused=use_fused(self.fused, device),
        )


Optimizer: TypeAlias = AdamW | Sgd
KINDS: Mapping[str, type[AdamW] | type[Sgd]] = MappingProxyType({"adamw": AdamW, "sgd": Sgd})
"""Settings class of an optimiser by its `kind`."""


def split_decayed(groups: ParameterGroups, decayed: Decayed) -> ParameterGroups:
    """The groups unchanged (`all`), or split (`matrices`).

    `matrices` puts the biases and norms of each group into a group without decay.
    """
    if decayed == "all":
        return groups
    split = []
    for group in groups:
        matrices, vectors = _by_dimension(group["params"])
        split += [{**group, "params": matrices}, {**group, "params": vectors, "weight_decay": 0.0}]
    return [group for group in split if group["params"]]


def use_fused(fused: Fused, device: torch.device) -> bool:
    """Whether to use the fused kernel on `device`."""
    return device.type == "cuda" if fused == "auto" else fused == "on"


def _by_dimension(parameters: Iterable[nn.Parameter]) -> tuple[list[Any], list[Any]]:
    """Parameters of at least two dimensions, and the others."""
    listed = list(parameters)
    return [p for p in listed if p.ndim >= 2], [p for p in listed if p.ndim < 2]
