"""What looks on while a pretraining run trains: alarms, signals of health, speed, and probes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from voco_models.data import Loader
from voco_models.objectives import (
    CollapseWatch,
    HeldOutProbe,
    WeightMovement,
    constant_cosine_losses,
    within_correlation,
)
from voco_models.processes import is_first_process
from voco_models.stages.place_probe import PlaceProbe
from voco_models.stages.pretrain_page import write_page
from voco_models.stages.pretrain_plan import PretrainPlan
from voco_models.stages.pretrain_recipes import PretrainRecipe
from voco_models.training import (
    HistoryRow,
    Monitor,
    Probe,
    ProbeMonitor,
    SpeedMonitor,
    TrainState,
    checkpoint,
    write_tensorboard,
)

log = logging.getLogger(__name__)

PROBE_BATCHES = 8
"""Batches of held-out volumes that a probe looks at."""
ALARMS = "alarms"
"""Entry of `run.json`: the alarms of the run so far, over all resumes."""


@dataclass(frozen=True, slots=True)
class HealthMonitor:
    """Writes alarms, page and TensorBoard's files at every checkpoint."""

    run: Path
    watch: LearningWatch
    every: int

    def observe(self, state: TrainState) -> None:
        """Write them."""
        del state
        write_health(self.run, self.watch.alarms)


class LearningWatch:
    """Looks at each row of the history: alarms, signals of health, and a line in the log."""

    def __init__(self, plan: PretrainPlan, alarms: Sequence[str]) -> None:
        """`alarms` are those of the run before it was resumed."""
        recipe, objective = plan.recipe, plan.objective
        self._objective = objective
        self._total_steps = recipe.fit.total_steps
        self._collapse = CollapseWatch(
            constant_cosine_losses(objective.plan, recipe.voco.target, recipe.voco.loss),
            log_every=recipe.fit.log_every,
            warmup_steps=recipe.fit.warmup_steps,
            total_steps=recipe.fit.total_steps,
            alarms=alarms,
        )
        student = objective.student
        self._movement = WeightMovement(
            {"backbone": student.backbone, "projector": student.projector}
        )
        self.signals: dict[str, float] = {}
        """The last signals, by the columns of `health.csv`."""

    @property
    def alarms(self) -> list[str]:
        """The alarms so far."""
        return self._collapse.alarms

    def __call__(self, row: HistoryRow) -> None:
        """Look at a row, when it is written."""
        taken, moved = self._objective.signals.take(), self._movement.measure()
        self._collapse(row, signals=taken, movement=moved)
        self.signals.update({f"movement_{part}": value for part, value in moved.items()})
        if taken is not None:
            self.signals["teacher_rank"] = taken.teacher_rank
            self.signals["correlation"] = within_correlation(taken.sums)
        log.info(
            "step %d of %d: loss %.4f (intra %.4f, inter %.4f, reg %.4f), rank %.1f, %.0f s",
            row["step"],
            self._total_steps,
            row["loss"],
            row["intra"],
            row["inter"],
            row["reg"],
            row["rank"],
            row["seconds"],
        )


def make_monitors(
    run: Path, plan: PretrainPlan, watch: LearningWatch, device: torch.device
) -> list[Monitor]:
    """The monitors of speed and signals, and of the volumes held out."""
    recipe = plan.recipe
    speed = SpeedMonitor(
        run,
        lambda: watch.signals,
        every=recipe.fit.log_every,
        crops_per_step=count_crops(recipe, plan.stores[0].grid),
        last=recipe.fit.total_steps,
    )
    probes = [make_probe_monitor(run, plan, device)] if plan.probed else []
    return [speed, *probes, HealthMonitor(run, watch, recipe.fit.checkpoint_every)]


def count_crops(recipe: PretrainRecipe, grid: tuple[int, int, int]) -> int:
    """Slice images of crops that the student trains on in a step."""
    stride = min(recipe.voco.slice_stride, grid[0])
    columns = recipe.voco.n_random
    if recipe.voco.student_crops == "all":
        columns += recipe.voco.grid**2
    return recipe.fit.accumulate * recipe.batch_size * columns * -(-grid[0] // stride)


def make_probe_monitor(run: Path, plan: PretrainPlan, device: torch.device) -> ProbeMonitor:
    """The probes on held-out volumes: of the pretext, on `PROBE_BATCHES` batches, and of places."""
    items, recipe = plan.probed, plan.recipe
    size = min(len(items), recipe.batch_size)
    # The inter-volume loss and batch norm need two volumes.
    repeated = list(items) if size > 1 else list(items) * 2
    loader = Loader(repeated, batch_size=max(2, size), seed=recipe.fit.seed, device=device)
    probes: list[Probe] = [HeldOutProbe(loader, min(PROBE_BATCHES, loader.steps_per_epoch))]
    if plan.probes_places:
        probes.append(PlaceProbe(plan.items, plan.probed))
    return ProbeMonitor(run, probes, every=recipe.probe_every)


def write_health(run: Path, alarms: Sequence[str]) -> None:
    """Write the alarms to `run.json`, the page, and TensorBoard's files."""
    if not is_first_process():
        return
    checkpoint.write_run(run, checkpoint.read_run(run) | {ALARMS: list(alarms)})
    write_tensorboard(run, write_page(run))
