"""The process of a candidate of `voco bench pretrain`: a training, and some of its steps."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from voco_data.store import Store, StoreSpec
from voco_models.bench.counting import count_flops
from voco_models.bench.device import computes_in_bf16
from voco_models.bench.steps import SyntheticBatches, TimedSteps, make_eager, without_amp
from voco_models.bench.volumes import GRID
from voco_models.bench.worker import serve
from voco_models.data import Loader, items_of
from voco_models.stages import PretrainRecipe, count_crops, pretrain_recipe
from voco_models.training import BatchSource, keep_freed_memory

CPU_CROPS = 500
"""On the CPU, a recipe whose step trains on more crops is measured with fewer."""
CPU_CHANGES = ("batch_size=2", "voco.slice_stride=4")
"""How it is changed."""

KINDS = ("synthetic", "streamed", "resident", "bf16_cpu", "compiled_cpu", "eager_fp32_nchw")
"""What is measured of a recipe: batches that are on the device, batches from a store that is read
during training or is in memory, two kinds with faster options for the CPU, and the baseline."""


def cpu_options(kind: str) -> tuple[str, ...]:
    """Options that a kind adds to the recipe. They change the rounding errors of the losses."""
    bf16 = ("fit.amp_cpu=true",) if computes_in_bf16() else ()
    return {
        "bf16_cpu": (*bf16, "fit.optimizer.fused=on"),
        "compiled_cpu": (*bf16, "fit.optimizer.fused=on", "compile_cpu=true"),
    }.get(kind, ())


def bench_recipe(
    name: str | Path, device: torch.device, changes: tuple[str, ...] = ()
) -> PretrainRecipe:
    """The recipe as it is measured on `device`: with `changes`, and smaller on the CPU if large.

    Raises InputError for an unknown recipe.
    """
    recipe = pretrain_recipe(name, changes)
    if device.type == "cpu" and count_crops(recipe, GRID) > CPU_CROPS:
        return pretrain_recipe(name, (*CPU_CHANGES, *changes))
    return recipe


def main(kind: str, name: str, device: str, steps: str, store: str) -> None:
    """Serve repeats of `steps` steps of the recipe `name`; `store` has the volumes to read."""
    serve(Candidate(kind, name, torch.device(device), int(steps), Path(store)).measure)


class Candidate:
    """A training of one recipe and kind. Each measurement goes on from the last step."""

    def __init__(
        self, kind: str, name: str | Path, device: torch.device, steps: int, store: Path
    ) -> None:
        recipe = bench_recipe(name, device, cpu_options(kind))
        if kind == "eager_fp32_nchw":
            recipe = dataclasses.replace(without_amp(recipe), compile=False)
        self._steps = steps
        spec = StoreSpec("bench", GRID)
        source = _make_source(kind, recipe, device, store)
        if kind != "eager_fp32_nchw":
            keep_freed_memory(device)
        self._timed = TimedSteps.begin(recipe, spec, source, device)
        if kind == "eager_fp32_nchw":
            make_eager(self._timed.state)
        self.counts: dict[str, Any] = {
            "crops": count_crops(recipe, GRID),
            "precision": "bf16" if recipe.fit.uses_bf16(device) else "fp32",
        }
        if recipe.compiles_on(device):
            self._timed.state.objective.compile_backbones()  # type: ignore[operator]
            self.counts["first_step_s"] = self._time_first_step()
        else:
            # Also the first step, which is not timed.
            self.counts["flops"] = count_flops(lambda: self._timed.take(1))
        self._timed.report()

    def measure(self) -> dict[str, Any]:
        """Take the steps of a repeat. Returns their times, the peak memory, and the counts."""
        self._timed.take(self._steps)
        return self._timed.report() | self.counts

    def _time_first_step(self) -> float:
        """Seconds of the step that compiles."""
        began = time.perf_counter()
        self._timed.take(1)
        return time.perf_counter() - began


def _make_source(
    kind: str, recipe: PretrainRecipe, device: torch.device, store: Path
) -> BatchSource:
    if kind not in ("streamed", "resident"):
        return SyntheticBatches.make(recipe.batch_size, GRID, device)
    return Loader(
        items_of([Store.open(store)]),
        batch_size=recipe.batch_size,
        seed=recipe.fit.seed,
        device=device,
        resident="none" if kind == "streamed" else "device",
        shuffle=recipe.shuffle,
    )
