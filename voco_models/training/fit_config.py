"""Settings of the optimiser and of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from voco_data.errors import InputError
from voco_models.recorded_options import WHEN_CHANGED
from voco_models.training.optimizers import AdamW, Optimizer


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Settings of the optimiser and of the loop."""

    total_steps: int
    """Horizon of the schedule. Stopping early does not change it."""
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """Weight decay of the optimiser."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises linearly to its peak."""
    amsgrad: bool = False
    """Use the maximum of the averages of the squared gradient; of the optimiser `adamw`."""
    final_lr_fraction: float = 0.0
    """Learning rate at the horizon, as a fraction of the peak."""
    clip_norm: float | None = None
    """Largest norm of the gradient, or no limit."""
    log_every: int = 50
    """Steps in a row of the history; its values are means over them."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of the initial weights, the order of the volumes, and all random draws."""
    amp: bool = True
    """bf16 autocast on CUDA; on a CPU only with `amp_cpu`."""
    accumulate: int = field(default=1, metadata=WHEN_CHANGED)
    """Batches per step: their gradients are averaged. Losses and batch norm see one batch each."""
    optimizer: Optimizer = field(default_factory=AdamW, metadata=WHEN_CHANGED)
    """The optimiser and its options."""
    amp_cpu: bool = field(default=False, metadata=WHEN_CHANGED)
    """bf16 autocast on a CPU too. It is faster where the processor computes in bf16 (AVX512-BF16 or
    AMX), and slower elsewhere. Losses then have the rounding errors of bf16."""

    def __post_init__(self) -> None:
        if self.total_steps < 1 or self.log_every < 1 or self.checkpoint_every < 1:
            raise InputError(
                "recipe: total_steps, log_every and checkpoint_every must be >= 1, got "
                f"{self.total_steps}, {self.log_every} and {self.checkpoint_every}"
            )
        if self.accumulate < 1:
            raise InputError(f"recipe: accumulate must be >= 1, got {self.accumulate}")
        if self.amp_cpu and not self.amp:
            raise InputError("recipe: amp_cpu needs amp=true; set amp_cpu to false, or amp to true")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise InputError(
                f"recipe: warmup_steps must be from 0 to total_steps, {self.total_steps}, got "
                f"{self.warmup_steps}"
            )
        if not self.lr > 0 or self.weight_decay < 0 or not 0 <= self.final_lr_fraction <= 1:
            raise InputError(
                "recipe: lr must be > 0, weight_decay >= 0, final_lr_fraction in 0..1, got "
                f"{self.lr}, {self.weight_decay} and {self.final_lr_fraction}"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"recipe: clip_norm must be > 0 or none, got {self.clip_norm}")
        if self.amsgrad and self.optimizer.kind != "adamw":
            raise InputError(
                f"recipe: amsgrad needs the optimizer adamw, got {self.optimizer.kind}; "
                "set amsgrad to false"
            )

    def uses_bf16(self, device: torch.device) -> bool:
        """Whether forward passes on `device` are in bf16."""
        return self.amp and (device.type == "cuda" or self.amp_cpu)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass on `device`."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.uses_bf16(device))
