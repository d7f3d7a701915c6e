"""Alarms of pretraining: a network that learns nothing, or that has collapsed.

A sign is judged over the last rows of the history, and reported once: over `PATIENCE` rows, and
ranks and correlations over as many as cover `PATIENCE_STEPS` if these are fewer.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from voco_models.objectives.collapse import ConstantCosineLosses
from voco_models.objectives.signals import Signals, within_correlation

log = logging.getLogger(__name__)

LOSS_TOLERANCE = 0.02
"""An intra loss this close to that of constant cosines, as a fraction of it, is a sign."""
RANK_ALARM = 1.5
"""An effective rank below this is a sign: all embeddings have nearly the same direction."""
CORRELATION_ALARM = 0.1
"""A correlation of cosines with targets below this is a sign, if it is also below 2 / sqrt(crops),
twice the spread of unrelated cosines. `docs/method.md` has usual values."""
CORRELATION_FROM = 75
"""Steps before a correlation is judged. A deep network that learns may begin near 0."""
MOVEMENT_ALARM = 1e-3
"""Weights that have moved by less than this fraction of their norm are a sign."""
JUDGED_FROM = 50
"""Steps, and half of the warm-up, before the movement of the weights is judged."""
MIN_CROPS = 64
"""Random crops in the last rows below which a correlation is not judged."""
PATIENCE = 5
"""Consecutive rows of the history that must show a sign before it is reported."""
PATIENCE_STEPS = 50
"""Steps that are enough for ranks and correlations; a row is a mean over its steps. A loss may pass
through a constant level, so it needs all rows."""
ALARM = "alarm: %s"


class CollapseWatch:
    """Checks the rows of the history and warns of each sign once. `alarms` are the warnings so far.

    `log_every` are the steps of a row; `warmup_steps` and `total_steps` are those of the schedule.
    `alarms` of an earlier part of the run are not repeated.
    """

    def __init__(
        self,
        losses: ConstantCosineLosses,
        *,
        log_every: int = 1,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        alarms: Iterable[str] = (),
    ) -> None:
        self._constant_losses = {
            f"all cosines at 0 give {losses.at_zero:.3f}": losses.at_zero,
            f"all cosines at {losses.best_cosine:.2f} give {losses.lowest:.3f}": losses.lowest,
        }
        self._lowest = losses.lowest
        self._half = math.inf if total_steps is None else total_steps / 2
        self._judged_from = max(JUDGED_FROM, warmup_steps // 2)
        self._patience = min(PATIENCE, math.ceil(PATIENCE_STEPS / log_every))
        self._recent: deque[Mapping[str, float]] = deque(maxlen=PATIENCE)
        self._recent_sums: deque[Tensor] = deque(maxlen=self._patience)
        self.alarms: list[str] = list(alarms)

    def __call__(
        self,
        row: Mapping[str, float],
        *,
        signals: Signals | None = None,
        movement: Mapping[str, float] | None = None,
    ) -> None:
        """Check a row with `step`, `intra` and `rank`, together with the rows before it.

        `signals` are those of the steps of the row, and `movement` is from `WeightMovement`.
        """
        if signals is not None:
            row = {**row, "teacher_rank": signals.teacher_rank}
            self._recent_sums.append(signals.sums)
        self._recent.append(row)
        is_judged = row["step"] >= self._judged_from
        if movement is not None and is_judged:
            self._check_movement(row, movement)
        if len(self._recent) >= self._patience:
            self._check_ranks(row)
            if is_judged and row["step"] >= CORRELATION_FROM:
                self._check_correlation(row)
        if len(self._recent) < PATIENCE:
            return
        for cause, loss in self._constant_losses.items():
            if all(abs(r["intra"] - loss) <= LOSS_TOLERANCE * loss for r in self._recent):
                self._warn(row, f"the intra loss sits where a network learns nothing ({cause})")
        if row["step"] >= max(self._half, self._judged_from) and all(
            r["intra"] > self._lowest for r in self._recent
        ):
            self._warn(
                row,
                "after half of the steps the intra loss is still above that of equal cosines "
                f"({self._lowest:.3f})",
            )

    def _check_movement(self, row: Mapping[str, float], movement: Mapping[str, float]) -> None:
        for part, moved in movement.items():
            if moved < MOVEMENT_ALARM:
                self._warn(
                    row,
                    f"the weights of the {part} have hardly moved since the start "
                    f"(less than {MOVEMENT_ALARM:g} of their norm)",
                )

    def _check_ranks(self, row: Mapping[str, float]) -> None:
        latest = list(self._recent)[-self._patience :]
        for name, column in (("student", "rank"), ("teacher", "teacher_rank")):
            if all(r.get(column, RANK_ALARM) < RANK_ALARM for r in latest):
                self._warn(
                    row,
                    f"the embeddings of the {name} have an effective rank below {RANK_ALARM}: "
                    "they hardly depend on the crop",
                )

    def _check_correlation(self, row: Mapping[str, float]) -> None:
        if len(self._recent_sums) < self._patience:
            return
        total = torch.stack(list(self._recent_sums)).sum(dim=0)
        crops = float(total[0, 0])
        if crops < MIN_CROPS:
            return
        lowest = min(CORRELATION_ALARM, 2 / math.sqrt(crops))
        if within_correlation(total) < lowest:
            self._warn(
                row,
                "the cosines do not follow the targets "
                f"(correlation below {CORRELATION_ALARM}): are the targets those of the crops?",
            )

    def _warn(self, row: Mapping[str, float], sign: str) -> None:
        if not any(sign in alarm for alarm in self.alarms):
            self.alarms.append(f"step {int(row['step'])}: {sign}")
            log.warning(ALARM, self.alarms[-1])
