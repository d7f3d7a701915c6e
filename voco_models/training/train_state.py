"""The state of a training: saved to disk, and restored to resume."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voco_data.errors import InputError, VocoError
from voco_models.processes import is_first_process, mean_over_processes
from voco_models.training import checkpoint
from voco_models.training.fit_config import FitConfig
from voco_models.training.history import HistoryRow
from voco_models.training.objective import Objective
from voco_models.training.provenance import list_differences
from voco_models.training.saved_state import HISTORY_ENTRY, SavedState, pack_rows


class Diverged(VocoError):
    """A loss or a weight is not finite. The last checkpoint is of an earlier step."""

    def __init__(self, step: int, text: str) -> None:
        super().__init__(f"step {step}: {text}")
        self.step = step
        """The step that was not finite; of a weight, the step at which it was found."""


class Snapshot:
    """A copy of weights, buffers and optimiser, on their device."""

    def __init__(self, state: TrainState) -> None:
        self.step = state.step
        self.objective = {name: t.clone() for name, t in state.objective.state_dict().items()}
        self.optimizer = copy.deepcopy(state.optimizer.state_dict())

    def restore(self, state: TrainState) -> None:
        """Set the state to the copy, with an empty window."""
        state.objective.load_state_dict(self.objective)
        state.optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        state.step = self.step
        state.window.clear()


@dataclass(slots=True)
class TrainState:
    """Everything that changes during training."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Number of steps done."""
    seconds: float = 0.0
    """Time spent in `fit`, over all resumes."""
    first_step: int = 0
    """Number of steps done before this call of `fit`."""
    first_seconds: float = 0.0
    """Time spent in `fit` before this call."""
    wait_seconds: float = 0.0
    """Time spent waiting for batches, in this call of `fit`."""
    window: list[dict[str, Tensor]] = field(default_factory=list)
    """Scalars of the steps since the last row of the history."""
    row_start: Snapshot | None = None
    """The state at the start of the current row, from which a step that fails is taken again."""

    def start_row(self) -> None:
        """Clear the window, and keep a copy of the state."""
        self.window.clear()
        self.row_start = Snapshot(self)

    def means(self) -> HistoryRow:
        """Means over the window. Raises Diverged if a loss in it is not finite."""
        rows = self._window_rows()
        return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def save(self, run: Path, provenance: dict[str, Any], rows: Sequence[HistoryRow] = ()) -> None:
        """Write `RUN/checkpoint.pt`. Raises Diverged before writing if a value is not finite.

        `rows` are the history so far, from which a damaged `history.csv` is restored. All processes
        must call it; the first one writes.
        """
        window = self._window_rows()
        weights = self.objective.state_dict()
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise Diverged(self.step, f"{name} is not finite; no checkpoint was saved")
        if not is_first_process():
            return
        checkpoint.save(
            run / checkpoint.CHECKPOINT,
            {
                "objective": weights,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "window": window,
                HISTORY_ENTRY: pack_rows(rows),
                "provenance": provenance,
            },
        )

    def restore(self, saved: SavedState, provenance: dict[str, Any], config: FitConfig) -> None:
        """Load a checkpoint. Raises InputError if it is of another experiment or network."""
        changed = list_differences(saved.provenance, provenance)
        if changed:
            raise InputError(
                f"cannot resume: {'; '.join(changed)}; start a new run in another --out"
            )
        saved.check_against(self.objective, self.optimizer, config)
        self.objective.load_state_dict(saved.objective, strict=True)
        self.optimizer.load_state_dict(saved.optimizer)
        self.step, self.seconds = saved.step, saved.seconds
        device = next(self.objective.parameters()).device
        self.window = [
            {
                name: torch.tensor(value, dtype=torch.float64, device=device)
                for name, value in parts.items()
            }
            for parts in saved.window
        ]

    def _window_rows(self) -> list[HistoryRow]:
        """The window as plain numbers, means over all processes, which must all call it.

        Waits for the device. Raises Diverged if a loss is not finite.
        """
        if not self.window:
            return []
        names = list(self.window[0])
        columns = [torch.stack([parts[name].double() for parts in self.window]) for name in names]
        values = mean_over_processes(torch.stack(columns, dim=1)).cpu().tolist()
        rows = [dict(zip(names, line, strict=True)) for line in values]
        for step, row in enumerate(rows, start=self.step - len(rows) + 1):
            if not math.isfinite(row["loss"]):
                parts = ", ".join(f"{name} {value:.6g}" for name, value in row.items())
                raise Diverged(
                    step,
                    f"the loss is not finite ({parts}); nothing was saved since the "
                    "last checkpoint; lower the learning rate, or set clip_norm",
                )
        return rows
