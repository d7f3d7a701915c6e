"""`voco bench cost`: 2D against 3D pretraining with the same crops, losses, optimiser and engine.

Every row has a process of its own, one after the other. The step is the production one on volumes
that are on the device. docs/bench.md explains the columns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from voco_data.temporary_folders import temporary_folder
from voco_models.bench.cost_steps import MEMORY_CAP_BYTES
from voco_models.bench.counting import FLOP_COUNTER
from voco_models.bench.device import describe_device
from voco_models.bench.pretrain import percentile
from voco_models.bench.runner import describe_machine, run_interleaved
from voco_models.data import free_bytes
from voco_models.training import choose_device

STEPS = "voco_models.bench.cost_steps"

NETWORKS = {
    "efficientnetv2_rw_t": "2D",
    "efficientnetv2_rw_s": "2D",
    "efficientnet_b0": "2D",
    "monai:swin_b": "3D",
    "monai:resnet18": "3D",
    "monai:resnet50": "3D",
    "monai:efficientnet_b0": "3D",
}
"""Networks, and the dimensions of their convolutions."""
QUICK_NETWORKS = {"test_byobnet": "2D", "monai:efficientnet_b0": "3D"}
REFERENCE = "efficientnetv2_rw_t"
"""Ratios are over this network, the paper's smaller one."""
DATASETS = {"hours_3779": 3_779, "hours_5910": 5_910}
"""Volumes of an epoch: the paper's training series, and these with FLARE23's unlabelled ones."""

CAVEATS = (
    "The gain over Swin-B is mostly that of a light CNN over a large transformer.",
    "Networks of one family, such as efficientnet_b0 in 2D and 3D, tell more about 2D against 3D.",
    "Crops, targets, losses, projector, EMA teacher, optimiser and engine are alike in all rows.",
    "A batch of one volume has no inter-volume loss, in any row.",
    "Networks are not compiled. 2D networks use channels-last memory, 3D ones the default.",
    "Hours of an epoch are for volumes that are on the device already, without reading.",
    "Equal cost is not equal learning: no row says which network learns more from a volume.",
)
"""Printed below the rows."""

NOT_INSTALLED = "not installed"
FIRST_PEAK_BYTES = 3 * 10**9
"""Free memory that the first row of a network needs on the CPU, at least."""

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What one row measures."""

    network: str
    slices: int
    batch: int
    precision: str
    repeats: int
    steps: int
    """Steps of a repeat, and, if there are several, before the first one as a warm-up."""

    @property
    def warmup(self) -> int:
        """Steps before the first one that is timed; the first of all is for counting."""
        return 1 + (self.steps if self.steps > 1 else 0)


def list_settings(device: str, *, quick: bool) -> list[Setting]:
    """The rows for `device`, `cpu` or `cuda`; the most important ones first."""
    networks = QUICK_NETWORKS if quick else NETWORKS
    if device == "cpu":
        slices = [(32, 1)] if quick else [(32, 3), (64, 1)]
        return [
            Setting(network, depth, batch=1, precision="fp32", repeats=repeats, steps=1)
            for depth, repeats in slices
            for network in networks
        ]
    shapes = [(32, 4, "bf16"), (32, 4, "fp32"), (32, 1, "bf16"), (64, 2, "bf16")]
    if not quick:
        shapes += [(32, 2, "bf16"), (32, 1, "fp32"), (32, 2, "fp32"), (64, 2, "fp32")]
    return [
        Setting(network, depth, batch, precision, repeats=5, steps=10)
        for depth, batch, precision in shapes
        for network in networks
    ]


def bench(
    device: str | torch.device | None = None, *, quick: bool = False, seconds: float | None = None
) -> dict[str, Any]:
    """Measure; returns rows, ratios by network, caveats, and a description of the machine.

    `quick` measures small networks on the CPU, and fewer rows on CUDA. After `seconds`, no step is
    timed; rows that are left say so, and have their counts. Raises InputError for a device that is
    not there.
    """
    chosen = choose_device(device)
    stop = None if seconds is None else time.monotonic() + seconds
    settings = list_settings(chosen.type, quick=quick)
    largest: dict[tuple[str, int], int | None] = {}
    peaks: dict[str, float] = {}
    results = []
    with temporary_folder() as folder:
        for setting in settings:
            note = find_obstacle(setting, chosen, peaks, stop)
            counted = replace(setting, repeats=1, steps=0) if note else setting
            found = _measure(counted, chosen, folder, quick=quick)
            results.append((setting, found, note if note or found else NOT_INSTALLED))
            if found and "resident_bytes" in found[-1]:
                peaks[setting.network] = found[-1]["resident_bytes"] / setting.slices
        if chosen.type == "cuda":
            largest = dict(_find_largest(settings, chosen, folder, stop))
    rows = [
        make_row(setting, found, largest.get((setting.network, setting.slices)), note)
        for setting, found, note in results
    ]
    return {
        "rows": rows,
        "ratios": compute_ratios(rows),
        "caveats": [{"caveat": text} for text in CAVEATS],
        "machine": describe_machine()
        | describe_device(chosen)
        | {"flop_counter": FLOP_COUNTER, "memory_cap_bytes": MEMORY_CAP_BYTES},
    }


def find_obstacle(
    setting: Setting, device: torch.device, peaks: Mapping[str, float], stop: float | None
) -> str:
    """Why a row cannot be measured; empty if it can.

    `peaks` are the largest bytes a slice of rows of the same network, and `stop` is a monotonic
    time. On the CPU, a row that does not fit in memory would end other processes as well.
    """
    if stop is not None and time.monotonic() > stop:
        return "not measured: out of time"
    if device.type == "cpu":
        need = peaks.get(setting.network, FIRST_PEAK_BYTES / setting.slices) * setting.slices
        if need > free_bytes(device):
            return f"not measured: needs about {need / 1e9:.0f} GB of free memory"
    return ""


def _measure(
    setting: Setting, device: torch.device, folder: Path, *, quick: bool
) -> list[Result] | None:
    """The results of a row; None if its library is not installed."""
    projector = 64 if quick and device.type == "cpu" else 2048
    words = (setting.network, setting.slices, setting.batch, setting.precision, device)
    arguments = tuple(map(str, (*words, setting.steps, projector)))
    (found,) = run_interleaved({"row": (STEPS, arguments)}, folder, setting.repeats).values()
    return found


def _find_largest(
    settings: Sequence[Setting], device: torch.device, folder: Path, stop: float | None
) -> Iterator[tuple[tuple[str, int], int | None]]:
    """The largest batch of each network and number of slices, in bf16; None if out of time."""
    for network, slices in dict.fromkeys((s.network, s.slices) for s in settings):
        if stop is not None and time.monotonic() > stop:
            return
        arguments = (network, str(slices), "largest", "bf16", str(device), "1", "2048")
        (found,) = run_interleaved({"row": (STEPS, arguments)}, folder, repeats=1).values()
        yield (network, slices), found[0]["largest_batch"] if found else None


def make_row(
    setting: Setting, results: list[Result] | None, largest: int | None, note: str = ""
) -> dict[str, Any]:
    """The row of a setting; its values are None if it was not measured."""
    row: dict[str, Any] = {
        "name": f"{setting.network}, {setting.slices} slices, batch {setting.batch}, "
        f"{setting.precision}",
        "median": None,
        "unit": "ms a step",
        "p90": None,
        "processor_ms": None,
        "steps": 0,
        "warmup": setting.warmup,
        "network": setting.network,
        "dimensions": (NETWORKS | QUICK_NETWORKS)[setting.network],
        "slices": setting.slices,
        "batch": setting.batch,
        "precision": setting.precision,
        "parameters": None,
        "forward_flops": None,
        "step_flops": None,
        "saved_bytes": None,
        "volumes_per_s": None,
        **dict.fromkeys(DATASETS),
        "allocated_bytes": None,
        "reserved_bytes": None,
        "resident_bytes": None,
        "largest_batch_24gb": largest,
        "note": note,
    }
    if results is None:
        return row
    last = results[-1]
    row |= {name: last[name] for name in row if name in last}
    if "seconds" not in last:  # it was only counted
        return row
    seconds = [value for result in results for value in result["seconds"]]
    processor = [value for result in results for value in result["processor"]]
    median = statistics.median(seconds)
    rate = setting.batch / median
    return row | {
        "median": median * 1e3,
        "p90": percentile(seconds, 90) * 1e3,
        "processor_ms": statistics.median(processor) * 1e3,
        "steps": len(seconds),
        "volumes_per_s": rate,
        **{name: volumes / rate / 3600 for name, volumes in DATASETS.items()},
    }


def compute_ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By row: times, operations and saved bytes of a step over those of `REFERENCE`.

    Only rows with the slices, batch and precision of a row of `REFERENCE` have ratios.
    """

    def shape(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["slices"], row["batch"], row["precision"]

    measured = [row for row in rows if row["median"] is not None]
    references = {shape(row): row for row in measured if row["network"] == REFERENCE}
    columns = {
        "time": "median",
        "processor_time": "processor_ms",
        "flops": "step_flops",
        "saved": "saved_bytes",
    }
    return {
        row["name"]: {
            name: row[column] / references[shape(row)][column] for name, column in columns.items()
        }
        for row in measured
        if row["network"] != REFERENCE and shape(row) in references
    }
