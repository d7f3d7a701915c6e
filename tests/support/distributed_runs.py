"""Runs of the stages in the processes of `torchrun`, in float64, for tests that compare them.

    python distributed_runs.py TASK FOLDER [WORDS]

FOLDER has the stores and the labels of `make_inputs`; runs are written beside them. WORDS are a
command of `voco` for after it, in float32. The tests call `main` for the runs of one process.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from tests.support.precision import in_float64
from tests.support.small_finetune import RECIPE, small_cohort
from tests.support.small_stores import make_store, random_volumes
from tests.support.undrawn import leave_plots_undrawn
from voco_data.errors import InputError
from voco_models.data.augment_crops import IntensityAugment
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.objectives import voco2d
from voco_models.objectives.voco2d import Voco2dConfig
from voco_models.processes import process_rank
from voco_models.stages.finetuning import finetune
from voco_models.stages.pretrain_recipes import PretrainRecipe
from voco_models.stages.pretraining import pretrain
from voco_models.training.engine import FitConfig
from voco_models.training.train_state import Diverged, TrainState

GRID = (4, 96, 96)
BATCH = 4
PRETRAIN = PretrainRecipe(
    fit=FitConfig(
        total_steps=6,
        lr=1e-3,
        weight_decay=0.01,
        log_every=2,
        checkpoint_every=4,
        accumulate=2,
    ),
    backbone=TINY_BACKBONE,
    voco=Voco2dConfig(
        projector_width=16,
        embedding=8,
        slice_stride=2,
        augment=IntensityAugment(0.1, 0.1, 0.1, 0.1),
    ),
    batch_size=BATCH,
    probe_every=3,
    probe_fraction=0.2,
)
LONG = dataclasses.replace(
    PRETRAIN, fit=dataclasses.replace(PRETRAIN.fit, total_steps=100_000, checkpoint_every=100_000)
)
FINETUNE = dataclasses.replace(RECIPE, dropout=0.0)
"""Dropout differs between processes, as their volumes do."""
FINETUNE_RUNS = {
    "finetune": FINETUNE,
    "options": dataclasses.replace(
        FINETUNE, batch_size=4, epochs=4, recompute="blocks", ema_decay=0.5, mixup_alpha=0.4
    ),
}
POISONED_STEP = 3


def make_inputs(folder: Path) -> None:
    """Write the stores and labels."""
    make_store(folder / "pretrain", random_volumes(8, GRID))
    small_cohort(folder / "finetune")


def _store(folder: Path) -> Path:
    (store,) = folder.glob("*.zarr")
    return store


def train_whole(folder: Path) -> None:
    """Pretrain and fine-tune to the end. In several processes, also resume, stop, and fail."""
    processes = os.environ.get("WORLD_SIZE", "1")
    stores = [_store(folder / "pretrain")]
    pretrain(stores, folder / f"whole-{processes}", recipe=PRETRAIN, device="cpu")
    for name, recipe in FINETUNE_RUNS.items():
        finetune(
            _store(folder / "finetune"),
            folder / "finetune" / "train.csv",
            folder / f"{name}-{processes}",
            recipe=recipe,
            device="cpu",
        )
    if processes != "1":
        for stop in (3, None):
            pretrain(
                stores,
                folder / "part-2",
                recipe=PRETRAIN,
                device="cpu",
                max_steps=stop,
                resume=stop is None,
            )
        _divide_badly(folder)
        _mix_badly(folder)
        _signal(folder)
        _diverge(folder)


class _SignalOne:
    """Sends SIGTERM to the second process, in the second step."""

    every = 2

    def observe(self, state: TrainState) -> None:
        """Send it."""
        if os.environ["RANK"] == "1" and state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


class _Stopped(Exception):
    """SIGTERM, for the second time: training has ended."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _signal(folder: Path) -> None:
    """Pretrain until one process gets a signal."""
    stores, monitors = [_store(folder / "pretrain")], [_SignalOne()]
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        pretrain(stores, folder / "signalled", recipe=LONG, device="cpu", monitors=monitors)
    except _Stopped:
        (folder / f"stopped-{os.environ['RANK']}.txt").touch()
    signal.signal(signal.SIGTERM, previous)


class _WritePid:
    """Tells the test which process to signal, once it trains."""

    every = 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def observe(self, state: TrainState) -> None:
        """Write the number of this process."""
        if state.step == 2:
            rank = os.environ["RANK"]
            temporary = self._folder / f".pid-{rank}"
            temporary.write_text(str(os.getpid()))
            temporary.replace(self._folder / f"pid-{rank}")


def train_long(folder: Path) -> None:
    """Pretrain until a signal comes."""
    stores = [_store(folder / "pretrain")]
    monitors = [_WritePid(folder)]
    pretrain(stores, folder / "long", recipe=LONG, device="cpu", monitors=monitors)


def _divide_badly(folder: Path) -> None:
    """Pretrain with a batch that cannot be divided."""
    recipe = dataclasses.replace(PRETRAIN, batch_size=3)
    try:
        pretrain([_store(folder / "pretrain")], folder / "divided", recipe=recipe, device="cpu")
    except InputError as error:
        (folder / f"divided-{os.environ['RANK']}.txt").write_text(str(error))


def _mix_badly(folder: Path) -> None:
    """Fine-tune with mixup and a single series in each process."""
    recipe = dataclasses.replace(FINETUNE, mixup_alpha=0.4)
    store, labels = _store(folder / "finetune"), folder / "finetune" / "train.csv"
    try:
        finetune(store, labels, folder / "mixed", recipe=recipe, device="cpu")
    except InputError as error:
        (folder / f"mixed-{os.environ['RANK']}.txt").write_text(str(error))


def _diverge(folder: Path) -> None:
    """Pretrain with a crop that is infinite in one step of the second process."""
    seeds: list[int] = []
    crops_and_targets = voco2d.Voco2d.crops_and_targets

    def poisoned(self: voco2d.Voco2d, batch: voco2d.Batch) -> tuple[Tensor, Tensor]:
        crops, targets = crops_and_targets(self, batch)
        if batch.seed not in seeds:
            seeds.append(batch.seed)
        if seeds.index(batch.seed) == POISONED_STEP - 1 and process_rank() == 1:
            crops[0, 0, 0, 0, 0] = torch.inf
        return crops, targets

    voco2d.Voco2d.crops_and_targets = poisoned  # type: ignore[method-assign]
    recipe = dataclasses.replace(
        PRETRAIN, probe_every=0, fit=dataclasses.replace(PRETRAIN.fit, accumulate=1, log_every=6)
    )
    try:
        pretrain([_store(folder / "pretrain")], folder / "diverged", recipe=recipe, device="cpu")
    except Diverged as error:
        (folder / f"diverged-{os.environ['RANK']}.txt").write_text(str(error))
    voco2d.Voco2d.crops_and_targets = crops_and_targets  # type: ignore[method-assign]


TASKS: dict[str, Callable[[Path], None]] = {"whole": train_whole, "long": train_long}


def main(task: str, folder: Path) -> None:
    """Run a task in float64. Nobody looks at the plots."""
    leave_plots_undrawn()
    with in_float64():
        TASKS[task](folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    if len(sys.argv) > 3:
        from flows.command import main as command

        sys.exit(command(sys.argv[3:]))
