"""Checks of a training step on a device: each returns what it measured, or raises CheckFailed.

    python -m scripts.gpu.steps NAME DEVICE      prints one JSON object as the last line

The network is that of the recipe `tiny`, in float32 without TF32 unless a check says otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voco_data.store import Store, StoreSpec
from voco_models import stages
from voco_models.bench.steps import SyntheticBatches, without_amp
from voco_models.bench.volumes import GRID, make_store, make_volume
from voco_models.data import Batch, Loader, items_of
from voco_models.stages import PretrainRecipe, build_objective, pretrain_recipe
from voco_models.training import prepare, read_history, take_step

LOSS_TOLERANCE = 1e-3
"""Largest relative difference of a loss between two devices, or with and without compilation."""
BF16_TOLERANCE = 0.05
"""The same between bf16 and float32."""
RESUME_TOLERANCE = 1e-3
"""The same between a resumed run and one that was not stopped, on CUDA; 0 on the CPU."""
VOLUMES = 8

Found = dict[str, Any]


class CheckFailed(Exception):
    """What was measured is not what must be."""


class NotApplicable(Exception):
    """The check needs what this machine does not have."""


def no_blocking_copy(device: torch.device) -> Found:
    """No operation of a step, and no copy of a streamed batch, waits for the device."""
    if device.type != "cuda":
        raise NotApplicable("needs CUDA; tests trace the step on the CPU")
    recipe = pretrain_recipe("tiny")
    with tempfile.TemporaryDirectory() as folder:
        loader = _loader(_store(Path(folder)), device, resident="none")
        state = prepare(build_objective(recipe, StoreSpec("bench", GRID)), recipe.fit, device)
        stream = loader.batches_from(0)
        for _ in range(3):  # the first steps allocate, and choose algorithms
            take_step(state, [next(stream)], recipe.fit)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                take_step(state, [next(stream)], recipe.fit)
        except RuntimeError as error:
            raise CheckFailed(f"a step waits: {str(error).splitlines()[0]}") from error
        finally:
            torch.cuda.set_sync_debug_mode("default")
            stream.close()
    return {"steps": 3}


def losses_as_on_the_cpu(device: torch.device) -> Found:
    """The losses of three steps on the device are those of the CPU."""
    recipe = without_amp(pretrain_recipe("tiny"))
    return _compare(_losses(recipe, device), _losses(recipe, torch.device("cpu")), LOSS_TOLERANCE)


def losses_in_bf16(device: torch.device) -> Found:
    """The loss under bf16 autocast is near that in float32."""
    recipe = pretrain_recipe("tiny")
    objective = build_objective(recipe, StoreSpec("bench", GRID)).to(device).train()
    batch = _batch(recipe, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        rounded = objective(batch)["loss"].item()
    return _compare([rounded], [objective(batch)["loss"].item()], BF16_TOLERANCE)


def compiled_as_eager(device: torch.device) -> Found:
    """The losses of three steps with compiled backbones are those without."""
    if device.type == "cpu" and not stages.has_cpu_compiler():
        raise NotApplicable("needs a C++ compiler")
    recipe = without_amp(pretrain_recipe("tiny"))
    compiled = dataclasses.replace(recipe, compile=True, compile_cpu=True)
    return _compare(_losses(compiled, device), _losses(recipe, device), LOSS_TOLERANCE)


def resident_as_streamed(device: torch.device) -> Found:
    """Batches of volumes that are kept on the device are those that are streamed."""
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder))
        streams = [
            _loader(store, device, resident=where).batches_from(0) for where in ("none", "device")
        ]
        for step in range(2 * VOLUMES // 4):  # two epochs
            streamed, resident = (next(stream) for stream in streams)
            if streamed.volumes.device.type != device.type:
                raise CheckFailed(f"batch {step} is on {streamed.volumes.device}")
            if not torch.equal(streamed.volumes, resident.volumes):
                raise CheckFailed(f"batch {step} differs")
        for stream in streams:
            stream.close()
    return {"batches": 2 * VOLUMES // 4}


def resumed_as_uninterrupted(device: torch.device) -> Found:
    """A run that is stopped and resumed has the losses of one that is not."""
    changes = ("fit.total_steps=6", "fit.warmup_steps=1", "fit.log_every=1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = _store(folder)

        def pretrain(out: str, **options: Any) -> list[float]:
            stages.pretrain(
                [store], folder / out, recipe="tiny", changes=changes, device=device, **options
            )
            return [float(row["loss"]) for row in read_history(folder / out)]

        whole = pretrain("whole")
        pretrain("stopped", max_steps=3)
        resumed = pretrain("stopped", resume=True)
    return _compare(resumed, whole, 0.0 if device.type == "cpu" else RESUME_TOLERANCE)


CHECKS: dict[str, Callable[[torch.device], Found]] = {
    check.__name__: check
    for check in (
        no_blocking_copy,
        losses_as_on_the_cpu,
        losses_in_bf16,
        compiled_as_eager,
        resident_as_streamed,
        resumed_as_uninterrupted,
    )
}
"""To add a check, write a function of the device and list it here."""


def _store(folder: Path) -> Path:
    return make_store(folder, np.stack([make_volume(number) for number in range(VOLUMES)]), "none")


def _loader(store: Path, device: torch.device, *, resident: Any) -> Loader:
    items = items_of([Store.open(store)])
    return Loader(items, batch_size=4, seed=0, device=device, resident=resident)


def _batch(recipe: PretrainRecipe, device: torch.device) -> Batch:
    return next(SyntheticBatches.make(recipe.batch_size, GRID, device).batches_from(0))


def _losses(recipe: PretrainRecipe, device: torch.device) -> list[float]:
    """Losses of three steps from the recipe's first weights."""
    state = prepare(build_objective(recipe, StoreSpec("bench", GRID)), recipe.fit, device)
    if recipe.compiles_on(device):
        state.objective.compile_backbones()  # type: ignore[operator]
    stream = SyntheticBatches.make(recipe.batch_size, GRID, device).batches_from(0)
    return [float(take_step(state, [next(stream)], recipe.fit)["loss"]) for _ in range(3)]


def _compare(found: list[float], expected: list[float], tolerance: float) -> Found:
    """The largest relative difference. Raises CheckFailed above the tolerance."""
    if len(found) != len(expected) or not np.isfinite([*found, *expected]).all():
        raise CheckFailed(f"expected losses {expected}, got {found}")
    difference = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    if difference > tolerance:
        raise CheckFailed(
            f"relative difference {difference:.1e}, expected at most {tolerance:.0e}: losses "
            f"{found}, expected {expected}"
        )
    return {"relative_difference": difference, "tolerance": tolerance}


def main(name: str, device: str) -> dict[str, Any]:
    """Run one check. Returns its status, `passed`, `failed` or `skipped`, and what it found."""
    torch.backends.cudnn.allow_tf32 = False
    try:
        return {"status": "passed", **CHECKS[name](torch.device(device))}
    except CheckFailed as error:
        return {"status": "failed", "note": str(error)}
    except NotApplicable as error:
        return {"status": "skipped", "note": str(error)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
