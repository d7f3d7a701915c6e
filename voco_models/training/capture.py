"""The capture of a step that was not finite: everything to take this step again.

Whether a loss is finite is known only when the device is asked, after several steps. So the state
at the start of each row of the history is kept in memory. After a failure, the steps since then are
taken again, one by one, to the first one that gives a value that is not finite.

RUN/nonfinite.pt     the state before that step, and its batch; see `Capture`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data import Batch
from voco_models.processes import gather_rows, is_first_process, mean_over_processes
from voco_models.training import checkpoint
from voco_models.training.objective import BatchSource
from voco_models.training.train_state import Snapshot, TrainState

CAPTURE = "nonfinite.pt"
_ENTRIES = frozenset(
    ("step", "seed", "items", "names", "volumes", "targets", "losses", "cause", "objective",
     "optimizer", "provenance")
)  # fmt: skip

TakeStep = Callable[[TrainState, Sequence[Batch]], Sequence[Mapping[str, Tensor]]]
"""Takes one step of the optimiser, and returns the scalars of each of its batches."""
NameItems = Callable[[Sequence[int]], Sequence[str]]
"""Names of a loader's items, as the store writes them: ids and rows, no other text of a file."""


@dataclass(frozen=True, slots=True)
class Capture:
    """A step, with the state before it. Tensors are on the CPU."""

    step: int
    """Number of the step; the first one of a run is 1."""
    seed: int
    """Seed of the batch."""
    items: Tensor
    """int64 (B,): items of the loader."""
    names: list[str]
    """Names of the items."""
    volumes: Tensor
    """Stored voxels (B, Z, Y, X)."""
    targets: dict[str, Tensor]
    losses: dict[str, float]
    """Scalars that the step gave."""
    cause: str
    """What was not finite."""
    objective: dict[str, Tensor]
    """State dict of the objective before the step."""
    optimizer: dict[str, Any]
    """State dict of the optimiser before the step."""
    provenance: dict[str, Any]

    def batch(self, device: torch.device) -> Batch:
        """The batch of the step, on `device`."""
        targets = {name: values.to(device) for name, values in self.targets.items()}
        return Batch(self.volumes.to(device), self.items, self.seed, targets)


def load_capture(path: Path) -> Capture:
    """Read a capture, without executing code from it. Raises InputError if it is none."""
    payload = checkpoint.load(path)
    del payload["format"]
    if set(payload) != _ENTRIES:
        raise InputError(f"{path}: expected the capture of a step ({CAPTURE}), got other entries")
    return Capture(**payload)


def capture_step(
    state: TrainState,
    batches: BatchSource,
    take_step: TakeStep,
    *,
    accumulate: int,
    last: int,
    out: Path,
    provenance: dict[str, Any],
    name_items: NameItems | None,
) -> Capture | None:
    """Take the steps of the current row again; write the first that is not finite to `out`.

    Returns None if all steps up to `last` are finite this time, as may happen on a GPU, whose sums
    are not reproducible to the bit. The state is then that of step `last`.
    """
    assert state.row_start is not None
    state.row_start.restore(state)
    with closing(batches.batches_from(state.step * accumulate)) as stream:
        while state.step < last:
            group, before = [next(stream) for _ in range(accumulate)], Snapshot(state)
            parts = [
                {n: float(mean_over_processes(v)) for n, v in scalars.items()}
                for scalars in take_step(state, group)
            ]
            failed = [i for i, losses in enumerate(parts) if not math.isfinite(losses["loss"])]
            cause = "the loss" if failed else _find_cause(state)
            if cause is None:
                continue
            chosen = failed[0] if failed else 0
            batch, losses = _join(group[chosen]), parts[chosen]
            names = [] if name_items is None else list(name_items(batch.items.tolist()))
            capture = Capture(
                step=before.step + 1,
                seed=batch.seed,
                items=batch.items,
                names=names,
                volumes=batch.volumes,
                targets=dict(batch.targets),
                losses=losses,
                cause=cause,
                objective=_to_cpu(before.objective),
                optimizer=_to_cpu(before.optimizer),
                provenance=provenance,
            )
            if is_first_process():
                checkpoint.save(out / CAPTURE, {f: getattr(capture, f) for f in sorted(_ENTRIES)})
            return capture
    return None


def _join(batch: Batch) -> Batch:
    """The batch of all processes, on the CPU. One process that trains on it has the same losses."""
    return Batch(
        volumes=gather_rows(batch.volumes.cpu()),
        items=gather_rows(batch.items),
        seed=batch.seed,
        targets={name: gather_rows(values.cpu()) for name, values in batch.targets.items()},
    )


def _find_cause(state: TrainState) -> str | None:
    """What is not finite after a step: a gradient or a weight; None if nothing is."""
    for name, parameter in state.objective.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name}"
    for name, tensor in state.objective.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None


def _to_cpu(value: Any) -> Any:
    """Nested dictionaries and lists with their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_cpu(item) for item in value]
    return value
