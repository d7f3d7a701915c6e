"""The process of a row of `voco bench cost`: steps of pretraining with one network."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from voco_data.errors import InputError
from voco_data.store import StoreSpec
from voco_models.bench.counting import count_flops, count_saved
from voco_models.bench.runner import NOT_INSTALLED
from voco_models.bench.steps import SyntheticBatches, TimedSteps, without_amp
from voco_models.bench.worker import serve
from voco_models.data import Batch
from voco_models.objectives import Voco2d
from voco_models.stages import PretrainRecipe, build_objective, pretrain_recipe
from voco_models.training import keep_freed_memory, prepare, take_step

SIDE = 192
"""Rows and columns of a volume."""
MEMORY_CAP_BYTES = 24 * 10**9
"""Memory of the largest batch: that of a consumer's GPU."""
MOST_VOLUMES = 256
"""The largest batch that is tried."""


def main(
    network: str, slices: str, batch: str, precision: str, device: str, steps: str, projector: str
) -> None:
    """Serve repeats of `steps` steps of one row; only its counts for 0 steps.

    If the batch is `largest`, serve the largest one that fits.
    """
    try:
        if batch == "largest":
            found = find_largest_batch(network, int(slices), precision, torch.device(device))
            serve(lambda: {"largest_batch": found}, warm_up=False)
            return
        if steps == "0":
            counts = count_without_computing(
                cost_recipe(network, int(batch), precision, int(projector)), int(slices)
            )
            serve(lambda: counts, warm_up=False)
            return
        row = Row(
            network,
            slices=int(slices),
            batch=int(batch),
            precision=precision,
            device=torch.device(device),
            steps=int(steps),
            projector=int(projector),
        )
    except InputError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            print(error, file=sys.stderr)
            sys.exit(NOT_INSTALLED)
        raise
    serve(row.measure, warm_up=int(steps) > 1)


def cost_recipe(network: str, batch: int, precision: str, projector: int = 2048) -> PretrainRecipe:
    """The recipe `default` with another network, without compilation.

    A batch of one volume has no inter-volume loss.
    """
    recipe = pretrain_recipe(
        "default",
        (
            f"backbone={network}",
            f"batch_size={batch}",
            f"voco.loss.inter={'next' if batch > 1 else 'off'}",
            f"voco.projector_width={projector}",
            f"voco.embedding={projector}",
        ),
    )
    recipe = dataclasses.replace(recipe, compile=False)
    return recipe if precision == "bf16" else without_amp(recipe)


class Row:
    """A training with one network, and what its first step counted."""

    def __init__(
        self,
        network: str,
        *,
        slices: int,
        batch: int,
        precision: str,
        device: torch.device,
        steps: int,
        projector: int = 2048,
    ) -> None:
        """Take one step, which is not timed, and count its operations and what it keeps."""
        grid = (slices, SIDE, SIDE)
        recipe = cost_recipe(network, batch, precision, projector)
        self._steps = steps
        keep_freed_memory(device)
        source = SyntheticBatches.make(batch, grid, device)
        self._timed = TimedSteps.begin(recipe, StoreSpec("bench", grid), source, device)
        objective = self._timed.state.objective
        assert isinstance(objective, Voco2d)
        with count_saved(objective) as saved:
            step_flops = count_flops(lambda: self._timed.take(1))
        backbone = objective.student.backbone.parameters()
        self.counts: dict[str, Any] = {
            "parameters": sum(weight.numel() for weight in backbone),
            "forward_flops": count_forward(objective, slices),
            "step_flops": step_flops / batch,
            "saved_bytes": saved.total,
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._timed.report()

    def measure(self) -> dict[str, Any]:
        """Take the steps of a repeat. Returns their times, the peak memory, and the counts."""
        self._timed.take(self._steps)
        return self._timed.report() | self.counts


def count_without_computing(recipe: PretrainRecipe, slices: int) -> dict[str, Any]:
    """The counts of a `Row`, from tensors without values: no step is computed, no memory needed."""
    batch = recipe.batch_size
    objective = build_objective(recipe, StoreSpec("bench", (slices, SIDE, SIDE))).train()
    parameters = sum(weight.numel() for weight in objective.student.backbone.parameters())
    n, m = recipe.voco.n_random, recipe.voco.grid**2
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        objective._apply(mode.from_tensor)  # type: ignore[no-untyped-call]
        inputs = torch.zeros(batch, n + m, slices, *objective.plan.size), torch.zeros(batch, n, m)
        crops, target = (mode.from_tensor(values) for values in inputs)

        def given_crops(_: Batch) -> tuple[Tensor, Tensor]:
            return crops, target

        objective.crops_and_targets = given_crops  # type: ignore[method-assign, assignment]
        nothing = Batch(target, torch.arange(batch), seed=0)

        def compute_gradients() -> None:
            loss = objective.measure(nothing, objective.signals)["loss"]
            torch.autograd.backward(loss)

        with count_saved(objective) as saved:
            flops = count_flops(compute_gradients)
        forward = count_forward(objective, slices)
    return {
        "parameters": parameters,
        "forward_flops": forward,
        "step_flops": flops / batch,
        "saved_bytes": saved.total,
    }


@torch.no_grad()
def count_forward(objective: Voco2d, slices: int) -> int:
    """Operations of the student's backbone and projector for all crops of one volume."""
    plan = objective.plan
    columns = plan.n_random + plan.grid**2
    device = next(objective.parameters()).device
    crops = torch.zeros(1, columns, slices, *plan.size, device=device)
    was_training = objective.training
    objective.eval()  # statistics of batch norm stay as they are
    flops = count_flops(lambda: objective.student(crops))
    objective.train(was_training)
    return flops


def find_largest_batch(network: str, slices: int, precision: str, device: torch.device) -> int:
    """The largest batch, up to `MOST_VOLUMES`, whose step fits in `MEMORY_CAP_BYTES` on CUDA.

    0 if not even one volume fits.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, MEMORY_CAP_BYTES / total), device)
    return search_largest(
        lambda batch: _step_fits(network, slices, batch, precision, device), MOST_VOLUMES
    )


def search_largest(fits: Callable[[int], bool], most: int, first: int = 4) -> int:
    """The largest number from 1 to `most` that fits, 0 if none does; doubles, then bisects."""
    largest, smallest_failure, trial = 0, most + 1, min(first, most)
    while largest + 1 < smallest_failure:
        if fits(trial):
            largest = trial
        else:
            smallest_failure = trial
        if smallest_failure > most:
            trial = min(2 * largest, most)
        else:
            trial = (largest + smallest_failure) // 2
    return largest


def _step_fits(network: str, slices: int, batch: int, precision: str, device: torch.device) -> bool:
    """Whether two steps of training fit in the memory of this process. The second has moments."""
    torch.cuda.empty_cache()
    recipe = cost_recipe(network, batch, precision)
    grid = (slices, SIDE, SIDE)
    try:
        state = prepare(build_objective(recipe, StoreSpec("bench", grid)), recipe.fit, device)
        batches = SyntheticBatches.make(batch, grid, device, batches=1).batches_from(0)
        for _ in range(2):
            take_step(state, [next(batches)], recipe.fit)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return False
    return True
