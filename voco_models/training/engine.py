"""The training loop of every objective. It does not depend on the model.

All random draws of a step are seeded with (seed, step): the loader's order, the seed in the batch,
and torch's default generators (dropout). So a checkpoint needs no generator state, and a resumed
run has the same losses as an uninterrupted one: bit for bit on a CPU with the same number of
threads.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.data import Batch, step_seed
from voco_models.training import checkpoint
from voco_models.training.capture import CAPTURE, NameItems, capture_step
from voco_models.training.history import HISTORY, History
from voco_models.training.hooks import Interruption, Monitor, call_monitors
from voco_models.training.objective import BatchSource, Objective
from voco_models.training.optimizers import AdamW, Optimizer
from voco_models.training.recorded_options import WHEN_CHANGED
from voco_models.training.train_state import Diverged, HistoryRow, Snapshot, TrainState


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
    """bf16 autocast, on CUDA only."""
    accumulate: int = field(default=1, metadata=WHEN_CHANGED)
    """Batches per step: their gradients are averaged. Losses and batch norm see one batch each."""
    optimizer: Optimizer = field(default_factory=AdamW, metadata=WHEN_CHANGED)
    """The optimiser and its options."""

    def __post_init__(self) -> None:
        if self.total_steps < 1 or self.log_every < 1 or self.checkpoint_every < 1:
            raise InputError(
                "recipe: total_steps, log_every and checkpoint_every must be >= 1, got "
                f"{self.total_steps}, {self.log_every} and {self.checkpoint_every}"
            )
        if self.accumulate < 1:
            raise InputError(f"recipe: accumulate must be >= 1, got {self.accumulate}")
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


@dataclass(frozen=True, slots=True)
class FitSummary:
    """The steps, the loss and the files of a call of `fit`."""

    first_step: int
    last_step: int
    total_steps: int
    loss: float | None
    """Loss in the last row of the history; None if no step was taken."""
    seconds: float
    """Time in `fit`, over all resumes."""
    checkpoint: Path
    history: Path

    @property
    def finished(self) -> bool:
        """Whether the horizon of the recipe is reached."""
        return self.last_step >= self.total_steps


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The named device; None is CUDA if available, else the CPU.

    Raises InputError for another device, and for CUDA where there is none.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device: expected cpu or cuda, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: expected cpu or cuda, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: {name} was asked for, but no CUDA device is available; use cpu")
    return device


def fit(
    objective: Objective,
    batches: BatchSource,
    config: FitConfig,
    *,
    out: Path,
    device: torch.device,
    max_steps: int | None = None,
    resume: bool = False,
    provenance: dict[str, Any],
    on_log: Callable[[HistoryRow], None] | None = None,
    monitors: Sequence[Monitor] = (),
    name_items: NameItems | None = None,
) -> FitSummary:
    """Train `objective` up to step min(max_steps, total_steps); write checkpoint and history.

    On SIGINT and SIGTERM, the step is finished, a checkpoint is saved, and the signal is raised
    again.

    Parameters
    ----------
    objective : networks and loss; its weights are trained in place.
    batches : source of the batches.
    config : optimiser, schedule and loop.
    out : folder of the run.
    device : device of the training.
    max_steps : step at which to stop, counted from the beginning of the run. It does not change the
        schedule.
    resume : continue from the checkpoint in `out`.
    provenance : the experiment, saved in every checkpoint.
    on_log : called with each row of the history.
    monitors : observe the state between steps; see `Monitor`.
    name_items : names of items of the batches, for the message of a step that is not finite.

    Raises
    ------
    InputError : before anything is written, if `out` has a checkpoint and `resume` is false, has
        none and `resume` is true, or has one of another experiment.
    VocoError : if the disk has no space for a checkpoint.
    Diverged : if a loss or a weight is not finite. It names the batch, and the step is in
        `out`/nonfinite.pt; see `capture.py`.
    """
    check_run_folder(out, resume=resume)
    saved = checkpoint.load(out / checkpoint.CHECKPOINT) if resume else None
    moments = config.optimizer.moments(amsgrad=config.amsgrad)
    checkpoint.check_disk_space(out, checkpoint.count_checkpoint_bytes(objective, moments=moments))
    objective = objective.to(device)
    state = TrainState(objective, _build_optimizer(objective, config, device))
    if saved is not None:
        state.restore(saved, provenance)
    first, loss = state.step, None
    state.first_step, state.first_seconds = state.step, state.seconds
    stop = config.total_steps if max_steps is None else min(max_steps, config.total_steps)
    if first < stop:
        state.row_start = Snapshot(state)
        try:
            loss = _train(state, batches, config, stop, out, provenance, on_log, monitors)
        except Diverged as error:
            raise _capture(error, state, batches, config, out, provenance, name_items) from error
    return FitSummary(
        first_step=first,
        last_step=state.step,
        total_steps=config.total_steps,
        loss=loss,
        seconds=state.seconds,
        checkpoint=out / checkpoint.CHECKPOINT,
        history=out / HISTORY,
    )


def check_run_folder(out: Path, *, resume: bool) -> None:
    """Check that `out` can be written, and that it has a checkpoint if and only if `resume`.

    Raises InputError otherwise.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder for the run, found a file; give another --out")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{out}: expected a place that can be written, {parent} cannot")
    exists = (out / checkpoint.CHECKPOINT).exists()
    if exists and not resume:
        raise InputError(f"{out}: already holds a run; go on with --resume or give another --out")
    if resume and not exists:
        raise InputError(f"{out}: nothing to resume, it holds no {checkpoint.CHECKPOINT}")


def prepare(objective: Objective, config: FitConfig, device: torch.device) -> TrainState:
    """The state before the first step: `objective` on `device`, in training mode, as `fit` has it.

    `fit` is this, `take_step` in a loop, and files. This is for programs that time or compare
    steps.
    """
    objective = objective.to(device).train()
    return TrainState(objective, _build_optimizer(objective, config, device))


def take_step(state: TrainState, batches: Sequence[Batch], config: FitConfig) -> dict[str, Tensor]:
    """One step of training: `config.accumulate` batches, on the device of the state.

    Sets the learning rate, seeds torch's default generators, and updates weights, optimiser and
    `after_step`. Returns the scalars, means over the batches, and does not wait for the device.
    """
    _set_learning_rate(state, config)
    _step(state, batches, config, next(state.objective.parameters()).device)
    return state.window.pop()


def _build_optimizer(
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


def _train(
    state: TrainState,
    batches: BatchSource,
    config: FitConfig,
    stop: int,
    out: Path,
    provenance: dict[str, Any],
    on_log: Callable[[HistoryRow], None] | None,
    monitors: Sequence[Monitor],
) -> float:
    """Take steps until `stop` or a signal. Returns the loss in the last row of the history."""
    device = next(state.objective.parameters()).device
    out.mkdir(parents=True, exist_ok=True)
    history = History(out, after=state.step, every=config.log_every, last=config.total_steps)
    state.objective.train()
    clock = time.perf_counter() - state.seconds
    cuda = [device] if device.type == "cuda" else []
    with (
        Interruption() as interruption,
        torch.random.fork_rng(devices=cuda),
        closing(batches.batches_from(state.step * config.accumulate)) as stream,
    ):
        while True:
            lr = _set_learning_rate(state, config)
            began = time.perf_counter()
            group = [next(stream) for _ in range(config.accumulate)]
            state.wait_seconds += time.perf_counter() - began
            _step(state, group, config, device)
            is_last = state.step == stop or interruption.signal_number is not None
            ends_row = state.step % config.log_every == 0 or state.step == config.total_steps
            if ends_row or is_last:
                means = state.means()
                state.seconds = time.perf_counter() - clock
                row = {"step": float(state.step), "lr": lr, **means, "seconds": state.seconds}
                history.append(row)
                if on_log is not None:
                    on_log(row)
            if ends_row:
                state.start_row()
            if is_last or state.step % config.checkpoint_every == 0:
                state.save(out, provenance)
            call_monitors(monitors, state)
            if is_last:
                return means["loss"]


def _capture(
    error: Diverged,
    state: TrainState,
    batches: BatchSource,
    config: FitConfig,
    out: Path,
    provenance: dict[str, Any],
    name_items: NameItems | None,
) -> Diverged:
    """Write the step that was not finite to a file. Returns the error that names its batch."""
    device = next(state.objective.parameters()).device

    def take_step(state: TrainState, group: Sequence[Batch]) -> list[dict[str, Tensor]]:
        _set_learning_rate(state, config)
        return _step(state, group, config, device)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        capture = capture_step(
            state,
            batches,
            take_step,
            accumulate=config.accumulate,
            last=error.step,
            out=out,
            provenance=provenance,
            name_items=name_items,
        )
    text = str(error).partition(": ")[2]
    if capture is None:
        return Diverged(error.step, f"{text}; it was finite when the step was taken again")
    batch = ", ".join(capture.names) or f"items {capture.items.tolist()}"
    first = (
        "" if capture.step == error.step else f"; first, at step {capture.step}, {capture.cause}"
    )
    return Diverged(
        error.step, f"{text}{first}; batch of step {capture.step}: {batch}; see {out / CAPTURE}"
    )


def _set_learning_rate(state: TrainState, config: FitConfig) -> float:
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


def _step(
    state: TrainState, batches: Sequence[Batch], config: FitConfig, device: torch.device
) -> list[dict[str, Tensor]]:
    """Take one step of the optimiser. Returns the scalars of each of its batches."""
    autocast = config.amp and device.type == "cuda"
    scalars = []
    state.optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(batches, start=state.step * len(batches)):
        torch.manual_seed(step_seed(config.seed, number))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            losses = state.objective(batch)
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
