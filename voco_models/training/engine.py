"""The training loop of every objective. It does not depend on the model.

All random draws of a step are seeded with (seed, step): the loader's order, the seed in the batch,
and torch's default generators (dropout). So a checkpoint needs no generator state, and a resumed
run has the same losses as an uninterrupted one: bit for bit on a CPU with the same number of
threads.

Under `torchrun`, every process runs this loop with its part of each batch. PyTorch's
DistributedDataParallel averages the gradients, so all processes keep equal weights; the first one
writes the files. Losses in the history are means over the processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.data import Batch
from voco_models.processes import device_number, is_first_process
from voco_models.training import checkpoint
from voco_models.training.capture import CAPTURE, NameItems, capture_step
from voco_models.training.fit_config import FitConfig
from voco_models.training.folders import check_writable
from voco_models.training.history import HISTORY, History, HistoryRow, restore_history
from voco_models.training.hooks import Interruption, Monitor, call_monitors
from voco_models.training.host_memory import keep_freed_memory
from voco_models.training.objective import BatchSource, Objective
from voco_models.training.parallel import distribute
from voco_models.training.run_files import mark_incomplete
from voco_models.training.run_lock import hold_run
from voco_models.training.saved_state import read_state
from voco_models.training.step import build_optimizer, run_step, set_learning_rate
from voco_models.training.train_state import Diverged, Snapshot, TrainState


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

    `cuda` is the device with the number of this process on its machine.

    Raises InputError for another device, and for CUDA where there is none.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device: expected cpu or cuda, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: expected cpu or cuda, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: {name} was asked for, but no CUDA device is available; use cpu")
    if device == torch.device("cuda"):
        return torch.device("cuda", device_number() % max(1, torch.cuda.device_count()))
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
    again; in all processes, if one of them gets it.

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
        none and `resume` is true, or has one that is damaged or of another experiment; and if
        another process trains there.
    VocoError : if the disk has no space for a checkpoint.
    Diverged : if a loss or a weight is not finite. It names the batch, and the step is in
        `out`/nonfinite.pt; see `capture.py`.
    """
    check_run_folder(out, resume=resume)
    moments = config.optimizer.moments(amsgrad=config.amsgrad)
    checkpoint.check_disk_space(out, checkpoint.count_checkpoint_bytes(objective, moments=moments))
    keep_freed_memory(device)
    with hold_run(out):
        saved = read_state(out / checkpoint.CHECKPOINT) if resume else None
        objective = objective.to(device)
        state = TrainState(objective, build_optimizer(objective, config, device))
        if saved is not None:
            state.restore(saved, provenance, config)
            restore_history(
                out,
                saved.history,
                after=state.step,
                every=config.log_every,
                last=config.total_steps,
            )
        first, loss = state.step, None
        state.first_step, state.first_seconds = state.step, state.seconds
        stop = config.total_steps if max_steps is None else min(max_steps, config.total_steps)
        if first < stop:
            if saved is not None and is_first_process() and (out / checkpoint.RUN_FILE).exists():
                mark_incomplete(out)
            state.row_start = Snapshot(state)
            network = distribute(state.objective)
            try:
                loss = _train(
                    state, network, batches, config, stop, out, provenance, on_log, monitors
                )
            except Diverged as error:
                raise _capture(
                    error, state, network, batches, config, out, provenance, name_items
                ) from error
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
    check_writable(out)
    exists = (out / checkpoint.CHECKPOINT).exists()
    if exists and not resume:
        raise InputError(f"{out}: already holds a run; go on with --resume or give another --out")
    if resume and not exists:
        raise InputError(f"{out}: nothing to resume, it holds no {checkpoint.CHECKPOINT}")


def _train(
    state: TrainState,
    network: nn.Module,
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
            lr = set_learning_rate(state, config)
            began = time.perf_counter()
            group = [next(stream) for _ in range(config.accumulate)]
            state.wait_seconds += time.perf_counter() - began
            run_step(state, network, group, config, device)
            is_last = interruption.has_signal() or state.step == stop
            ends_row = state.step % config.log_every == 0 or state.step == config.total_steps
            if ends_row or is_last:
                means = state.means()
                state.seconds = time.perf_counter() - clock
                row = {"step": float(state.step), "lr": lr, **means, "seconds": state.seconds}
                history.append(row)
            if ends_row:
                state.start_row()
            if is_last or state.step % config.checkpoint_every == 0:
                state.save(out, provenance, history.rows)
            if on_log is not None and (ends_row or is_last):
                on_log(row)  # after saving: where a run prints may be gone when it is stopped
            call_monitors(monitors, state)
            if is_last:
                return means["loss"]


def _capture(
    error: Diverged,
    state: TrainState,
    network: nn.Module,
    batches: BatchSource,
    config: FitConfig,
    out: Path,
    provenance: dict[str, Any],
    name_items: NameItems | None,
) -> Diverged:
    """Write the step that was not finite to a file. Returns the error that names its batch."""
    device = next(state.objective.parameters()).device

    def take_step(state: TrainState, group: Sequence[Batch]) -> list[dict[str, Tensor]]:
        set_learning_rate(state, config)
        return run_step(state, network, group, config, device)

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
