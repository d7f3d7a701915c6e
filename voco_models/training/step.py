"""One step of training: the learning rate, losses and gradients, the optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from voco_models.data import Batch, step_seed
from voco_models.processes import process_rank
from voco_models.training.fit_config import FitConfig
from voco_models.training.objective import Objective
from voco_models.training.parallel import keep_gradients
from voco_models.training.train_state import TrainState


def prepare(objective: Objective, config: FitConfig, device: torch.device) -> TrainState:
    """The state before the first step: `objective` on `device`, in training mode, as `fit` has it.

    `fit` is this, `take_step` in a loop, and files. This is for programs that time or compare
    steps.
    """
    objective = objective.to(device).train()
    return TrainState(objective, build_optimizer(objective, config, device))


def take_step(state: TrainState, batches: Sequence[Batch], config: FitConfig) -> dict[str, Tensor]:
    """One step of training in one process: `config.accumulate` batches, on the device of the state.

    Sets the learning rate, seeds torch's default generators, and updates weights, optimiser and
    `after_step`. Returns the scalars, means over the batches, and does not wait for the device.
    """
    set_learning_rate(state, config)
    device = next(state.objective.parameters()).device
    run_step(state, state.objective, batches, config, device)
    return state.window.pop()


def build_optimizer(
    objective: Objective, config: FitConfig, device: torch.device
) -> torch.optim.Optimizer:
    """The recipe's optimiser of the objective's trainable parameters."""
    return config.optimizer.build(
        objective.parameter_groups(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad,
        device=device,
    )


def set_learning_rate(state: TrainState, config: FitConfig) -> float:
    """Set the learning rate of the next step, and return it."""
    lr = config.lr * warmup_cosine(
        state.step,
        total=config.total_steps,
        warmup=config.warmup_steps,
        final_fraction=config.final_lr_fraction,
    )
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    return lr


def run_step(
    state: TrainState,
    network: nn.Module,
    batches: Sequence[Batch],
    config: FitConfig,
    device: torch.device,
) -> list[dict[str, Tensor]]:
    """Take one step of the optimiser. Returns the scalars of each of its batches.

    `network` is the objective, or `DistributedDataParallel` around it.
    """
    scalars = []
    state.optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(batches, start=state.step * len(batches)):
        torch.manual_seed(step_seed(config.seed, number, process_rank()))
        with keep_gradients(network, is_last=batch is batches[-1]):
            with config.autocast(device):
                losses = network(batch)
            (losses["loss"] / len(batches)).backward()
        scalars.append({name: value.detach() for name, value in losses.items()})
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.objective.parameters(), config.clip_norm)
    state.optimizer.step()
    state.step += 1
    state.objective.after_step(state.step / config.total_steps)
    state.window.append(_mean(scalars))
    return scalars


def _mean(scalars: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of the scalars of several batches."""
    if len(scalars) == 1:
        return scalars[0]
    return {n: torch.stack([s[n].double() for s in scalars]).mean() for n in scalars[0]}


def warmup_cosine(step: int, *, total: int, warmup: int, final_fraction: float = 0.0) -> float:
    """Factor of the peak learning rate at `step` (0-based), in (0, 1].

    Linear from 1/warmup to 1 over the first `warmup` steps, then half a cosine that reaches
    `final_fraction` at step `total`.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
