"""`voco bench pretrain`: times of a training step, beside the same step in PyTorch's defaults.

Every candidate has a process of its own, and repeats take turns. A step is the production one: the
objective and the engine of `voco pretrain`, without files. docs/bench.md explains rows and ratios.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voco_data.temporary_folders import temporary_folder
from voco_models.bench import volumes
from voco_models.bench.counting import FLOP_COUNTER
from voco_models.bench.device import computes_in_bf16, describe_device
from voco_models.bench.pretrain_steps import CPU_CHANGES, KINDS, bench_recipe
from voco_models.bench.runner import describe_machine, run_interleaved
from voco_models.stages import has_cpu_compiler, pretrain_recipe
from voco_models.training import choose_device

STEPS = "voco_models.bench.pretrain_steps"
PRODUCT = "voco_models.bench.device"
EAGER = "eager_fp32_nchw"

RECIPES = {"cpu": ("tiny", "default"), "cuda": ("tiny", "default", "default_s")}
"""Recipes that are measured unless one is named."""
STORE_VOLUMES = 32
"""Volumes of the store that is read; 1.2 MB each."""

Result = dict[str, Any]
"""What a candidate reports of a repeat; see `pretrain_steps.Candidate.measure`."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How many steps are timed. The first `steps` of each candidate are a warm-up."""

    repeats: int
    """Repeats, which take turns with those of the other candidates."""
    steps: int
    """Steps of a repeat."""


CUDA_EFFORT = Effort(repeats=6, steps=10)
CPU_EFFORT = Effort(repeats=10, steps=10)
CPU_LARGE_EFFORT = Effort(repeats=6, steps=1)
"""On the CPU, of a recipe that is measured with fewer crops than it has."""
QUICK_EFFORT = Effort(repeats=2, steps=1)


def bench(
    recipe: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure; returns rows, ratios by recipe, and a description of the machine.

    `recipe` is a name or a file; None measures `RECIPES`. `device` is CUDA if available, if None.
    `quick` takes a few steps of every candidate, and compiles nothing on the CPU: a trial.
    On 2 CPU cores this takes about 10 minutes without `quick`, most of them to compile.

    Raises InputError for an unknown recipe, and for a device that is not there.
    """
    chosen = choose_device(device)
    names = RECIPES[chosen.type] if recipe is None else (recipe,)
    for name in names:
        pretrain_recipe(name)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Any] = {}
    with temporary_folder() as folder:
        store = volumes.make_store(
            folder,
            np.stack([volumes.make_volume(index) for index in range(STORE_VOLUMES)]),
            "none",
        )
        before = measure_peaks(chosen, folder)
        measured = {str(name): _measure(name, chosen, store, folder, quick=quick) for name in names}
        after = measure_peaks(chosen, folder)  # other load may have slowed the first
        peaks = {name: max(rate, after[name]) for name, rate in before.items()}
        for name, results in measured.items():
            rows += make_rows(name, results, peaks)
            ratios[name] = compute_ratios(results)
    return {
        "rows": rows,
        "ratios": ratios,
        "machine": describe_machine()
        | describe_device(chosen)
        | {
            "flop_counter": FLOP_COUNTER,
            "measured_peak_flops_per_s": peaks,
            "smaller_on_cpu": ", ".join(CPU_CHANGES) if chosen.type == "cpu" else "",
        },
    }


def measure_peaks(device: torch.device, folder: Path) -> dict[str, float]:
    """FLOP/s of a matrix product in the precisions of `device`: the best of some repeats."""
    has_bf16 = device.type == "cuda" or computes_in_bf16()
    precisions = ("fp32", "bf16") if has_bf16 else ("fp32",)
    found = run_interleaved(
        {name: (PRODUCT, (str(device), name)) for name in precisions}, folder, repeats=3
    )
    return {
        name: max(result["flops_per_s"] for result in results or ())
        for name, results in found.items()
    }


def _measure(
    name: str | Path, device: torch.device, store: Path, folder: Path, *, quick: bool
) -> dict[str, list[Result] | None]:
    """Results of every kind of one recipe; None where it cannot be measured."""
    # On CUDA, the recipe itself compiles.
    on_cpu = device.type == "cpu"
    left_out = {
        "bf16_cpu": not on_cpu or not computes_in_bf16(),
        "compiled_cpu": not on_cpu or not has_cpu_compiler() or quick,
    }
    kinds = [kind for kind in KINDS if not left_out.get(kind)]
    given = str(Path(name).resolve()) if Path(name).is_file() else str(name)
    effort = QUICK_EFFORT if quick else choose_effort(name, device)
    found = run_interleaved(
        {
            kind: (STEPS, (kind, given, str(device), str(effort.steps), str(store)))
            for kind in kinds
        },
        folder,
        effort.repeats,
    )
    return {kind: found.get(kind) for kind in KINDS}


def choose_effort(name: str | Path, device: torch.device) -> Effort:
    """How many steps of a recipe are timed on `device`."""
    if device.type == "cuda":
        return CUDA_EFFORT
    is_smaller = bench_recipe(name, device) != pretrain_recipe(name)
    return CPU_LARGE_EFFORT if is_smaller else CPU_EFFORT


def make_rows(
    recipe: str,
    results: Mapping[str, list[Result] | None],
    peaks: Mapping[str, float],
) -> list[dict[str, Any]]:
    """A row for each kind that was measured: times, rates, memory."""
    flops = next(
        (r[0]["flops"] for r in results.values() if r is not None and "flops" in r[0]), None
    )
    rows = []
    for kind, repeats in results.items():
        if repeats is None:
            continue
        seconds, waits, processor = (
            [value for result in repeats for value in result[name]]
            for name in ("seconds", "waits", "processor")
        )
        median = statistics.median(seconds)
        last = repeats[-1]
        rows.append(
            {
                "name": f"{recipe}, {kind}",
                "median": median * 1e3,
                "unit": "ms a step",
                "p90": percentile(seconds, 90) * 1e3,
                "p99": percentile(seconds, 99) * 1e3,
                "steps": len(seconds),
                "crops_per_s": last["crops"] / median,
                "mfu": None if flops is None else flops / median / peaks[last["precision"]],
                "precision": last["precision"],
                "processor_ms": statistics.median(processor) * 1e3,
                "wait_ms": statistics.median(waits) * 1e3,
                "crops": last["crops"],
                "step_flops": flops,
                "first_step_s": last.get("first_step_s"),
                **{name: value for name, value in last.items() if name.endswith("_bytes")},
            }
        )
    return rows


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]


def compute_ratios(results: Mapping[str, list[Result] | None]) -> dict[str, float | None]:
    """The ratios of one recipe; None where one of the two was not measured.

    `eager`, `bf16_eager` and `compiled_eager` are rates over that of the baseline, `store` and
    `resident` over that of batches on the device. `p99_loader` is the p99 of the step with the
    loader's threads over that without.
    """
    seconds: dict[str, list[float]] = {
        kind: [value for result in repeats for value in result["seconds"]]
        for kind, repeats in results.items()
        if repeats is not None
    }

    def rate(ours: str, other: str) -> float | None:
        if ours not in seconds or other not in seconds:
            return None
        return statistics.median(seconds[other]) / statistics.median(seconds[ours])

    return {
        "eager": rate("synthetic", EAGER),
        "bf16_eager": rate("bf16_cpu", EAGER),
        "compiled_eager": rate("compiled_cpu", EAGER),
        "store": rate("streamed", "synthetic"),
        "resident": rate("resident", "synthetic"),
        "p99_loader": percentile(seconds["streamed"], 99) / percentile(seconds["synthetic"], 99),
    }
