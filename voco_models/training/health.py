"""Monitors that write how a training does, beside its loss curve.

RUN/health.csv     signals and speed, one row per row of the history
RUN/probes.csv     what probes measure, at their cadence
RUN/tensorboard/   all of this and the losses for TensorBoard, where it is installed

The CSV files are the truth; TensorBoard's hold copies.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voco_models.training.history import History
from voco_models.training.objective import Objective
from voco_models.training.train_state import TrainState

HEALTH, PROBES, TENSORBOARD = "health.csv", "probes.csv", "tensorboard"

Probe = Callable[[int, Objective], Mapping[str, float]]
"""Measures an objective after a step: scalars by name, the same names every time. It may use the
networks in any mode, as `preserve_training_state` restores them."""
Signals = Callable[[], Mapping[str, float]]


class ProbeMonitor:
    """Calls probes every `every` steps, and writes their scalars to `RUN/probes.csv`."""

    def __init__(self, run: Path, probes: Sequence[Probe], *, every: int) -> None:
        self.every = every
        self._probes = list(probes)
        self._run = run
        self._table: History | None = None

    def observe(self, state: TrainState) -> None:
        """Measure, and append a row."""
        row: dict[str, float] = {"step": float(state.step)}
        for probe in self._probes:
            row |= probe(state.step, state.objective)
        if self._table is None:
            after = state.first_step
            self._table = History(self._run, after=after, every=self.every, last=0, name=PROBES)
        self._table.append(row)


class SpeedMonitor:
    """Writes signals and speed to `RUN/health.csv` after every row of the history.

    `crops_per_second` are slice images of crops that were trained on; `data_wait` is the fraction
    of the time in which the training waited for batches.
    """

    def __init__(
        self, run: Path, signals: Signals, *, every: int, crops_per_step: int, last: int
    ) -> None:
        """`last` is the horizon of the training."""
        self.every = every
        self._signals = signals
        self._crops_per_step = crops_per_step
        self._last = last
        self._run = run
        self._table: History | None = None
        self._before = (0, 0.0, 0.0)
        """Step, seconds and seconds of waiting at the row before."""

    def observe(self, state: TrainState) -> None:
        """Append a row."""
        if self._table is None:
            self._table = History(
                self._run, after=state.first_step, every=self.every, last=self._last, name=HEALTH
            )
            self._before = (state.first_step, state.first_seconds, 0.0)
        now = (state.step, state.seconds, state.wait_seconds)
        steps, seconds, wait = (b - a for a, b in zip(self._before, now, strict=True))
        self._before = now
        self._table.append(
            {
                "step": float(state.step),
                **self._signals(),
                "crops_per_second": steps * self._crops_per_step / max(seconds, 1e-9),
                "data_wait": min(1.0, wait / max(seconds, 1e-9)),
            }
        )


def write_tensorboard(run: Path, tables: Mapping[str, Sequence[Mapping[str, float]]]) -> bool:
    """Write the rows of tables, by name, to `RUN/tensorboard/`; False if it is not installed.

    Every column is a scalar `TABLE/COLUMN` over the steps. Earlier files are replaced.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return False
    from torch.utils.tensorboard import SummaryWriter

    folder = run / TENSORBOARD
    for file in folder.glob("events.out.tfevents.*"):
        file.unlink()
    writer: Any = SummaryWriter(str(folder))
    for table, rows in tables.items():
        for row in rows:
            for column in set(row) - {"step"}:
                writer.add_scalar(f"{table}/{column}", row[column], int(row["step"]))
    writer.close()
    return True
