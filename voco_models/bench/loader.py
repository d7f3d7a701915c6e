"""`voco bench loader`: times of reading for training, ours and other libraries', in one run.

A batch of volumes is 4 random volumes of (32, 192, 192) as float32, a batch of slices 64 random
slices of (192, 192) as float32. All files are in the page cache, and each chunk was verified by its
first read. Ratios of loaders are our rate over theirs. Ratios of single reads are our time over the
time of np.memmap.
"""

from __future__ import annotations

from typing import Any

from voco_data.temporary_folders import temporary_folder
from voco_models.bench import volumes
from voco_models.bench.runner import describe_machine, make_row, measure_medians

REPEATS = 7
PEERS = "voco_models.bench.peers"
OURS = "voco_models.bench.ours"


def bench(repeats: int = REPEATS) -> dict[str, Any]:
    """Measure; returns rows with medians over repeats, ratios, and a description of the machine.

    Takes two to three minutes, and 1.5 GB in a temporary folder that is removed at the end.
    """
    with temporary_folder() as folder:
        data = volumes.make_volumes(folder)
        seconds = {
            **measure_medians(_volume_candidates(data), data.folder, repeats),
            **measure_medians(_slice_candidates(data), data.folder, repeats),
            **measure_medians(_read_candidates(data), data.folder, repeats),
        }
    return {
        "rows": [*_make_rows(seconds), make_row("LZ4 ratio", data.lz4_ratio, "times")],
        "ratios": compute_ratios(seconds),
        "machine": describe_machine(),
    }


def _volume_candidates(data: volumes.BenchVolumes) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder, monai = str(data.folder), f"{PEERS}.monai_datasets"
    return {
        "voco": (OURS, ("volumes", folder, str(data.store))),
        "voco lz4": (OURS, ("volumes-lz4", folder, str(data.store_lz4))),
        "memmap, DataLoader(2)": (f"{PEERS}.memmap_loader", ("volumes", folder)),
        "memmap as float32, DataLoader(2)": (f"{PEERS}.memmap_loader", ("floats", folder)),
        "MONAI PersistentDataset, 2 workers": (monai, ("persistent", folder)),
        "MONAI PersistentDataset, 2 workers, float32": (monai, ("persistent-floats", folder)),
        "MONAI CacheDataset in-process": (monai, ("cache", folder)),
        "MONAI CacheDataset in-process, float32": (monai, ("cache-floats", folder)),
        "LitData, 2 workers": (f"{PEERS}.litdata_stream", ("volumes", folder)),
    }


def _slice_candidates(data: volumes.BenchVolumes) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder = str(data.folder)
    return {
        "voco slices": (OURS, ("slices", folder, str(data.store))),
        "memmap slices, DataLoader(2)": (f"{PEERS}.memmap_loader", ("slices", folder)),
    }


def _read_candidates(data: volumes.BenchVolumes) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder = str(data.folder)
    return {
        "read": (OURS, ("read", folder, str(data.store), str(data.store_lz4))),
        "first": (OURS, ("first", folder, str(data.large))),
    }


def compute_ratios(seconds: dict[str, float | None]) -> dict[str, float | None]:
    """The published ratios, from median seconds by name; None if a library is not installed.

    Where a library was measured in two data, the faster one counts. MONAI's data sets cache the
    output of the transforms. Their ratio is of float32, as MONAI documents; the one of the stores'
    own type is given too.
    """

    def speedup(ours: str, *theirs: str) -> float | None:
        times = [value for name in theirs if (value := seconds[name]) is not None]
        our_time = seconds[ours]
        return min(times) / our_time if times and our_time else None

    def slowdown(ours: str) -> float | None:
        our_time, memmap_time = seconds[ours], seconds["read memmap"]
        return our_time / memmap_time if our_time and memmap_time else None

    cache = "MONAI CacheDataset in-process"
    memmap = "memmap, DataLoader(2)"
    persistent = "MONAI PersistentDataset, 2 workers"
    return {
        "memmap_dataloader2": speedup("voco", memmap, "memmap as float32, DataLoader(2)"),
        "persistent_dataset2": speedup("voco", f"{persistent}, float32"),
        "persistent_dataset2_uint8": speedup("voco", persistent),
        "cache_dataset": speedup("voco", f"{cache}, float32"),
        "cache_dataset_uint8": speedup("voco", cache),
        "litdata": speedup("voco", "LitData, 2 workers"),
        "lz4_memmap_dataloader2": speedup("voco lz4", memmap, "memmap as float32, DataLoader(2)"),
        "slices_memmap_dataloader2": speedup("voco slices", "memmap slices, DataLoader(2)"),
        "volume_read_memmap": slowdown("read voco"),
        "volume_read_lz4_memmap": slowdown("read voco lz4"),
        "first_batch_5000_s": seconds["voco first batch"],
    }


def _make_rows(seconds: dict[str, float | None]) -> list[dict[str, Any]]:
    units = {"first": ("s", 1.0), "read": ("us a volume", 1e6)}
    rows = []
    for name, value in seconds.items():
        kind = "first" if "first" in name else "read" if name.startswith("read") else ""
        unit, factor = units.get(kind, ("ms a batch", 1e3))
        rows.append(make_row(name, None if value is None else value * factor, unit))
    return rows
