"""`voco bench loader`: reads for training, ours and those of peers, in one run.

A batch of volumes is 4 random volumes of (32, 192, 192) as float32, a batch of slices 64 random
slices of (192, 192) as float32. All files are in the page cache, and each chunk has passed the
check of its first read. Ratios of loaders are our rate over theirs, those of single reads our time
over np.memmap's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from voco_models.bench import volumes
from voco_models.bench.runner import describe_machine, medians, row

REPEATS = 7
PEERS = "voco_models.bench.peers"
OURS = "voco_models.bench.ours"


def bench(repeats: int = REPEATS) -> dict[str, Any]:
    """Rows with medians over repeats, ratios, and the machine.

    Takes two to three minutes, and 1.5 GB in a temporary folder that is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="voco-bench-", ignore_cleanup_errors=True) as name:
        forms = volumes.make(Path(name))
        seconds = {
            **medians(_volume_candidates(forms), forms.folder, repeats),
            **medians(_slice_candidates(forms), forms.folder, repeats),
            **medians(_read_candidates(forms), forms.folder, repeats),
        }
    return {
        "rows": [*_rows(seconds), row("LZ4 ratio", forms.lz4_ratio, "times")],
        "ratios": ratios(seconds),
        "machine": describe_machine(),
    }


def _volume_candidates(forms: volumes.BenchVolumes) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder, monai = str(forms.folder), f"{PEERS}.monai_datasets"
    return {
        "voco": (OURS, ("volumes", folder, str(forms.store))),
        "voco lz4": (OURS, ("volumes-lz4", folder, str(forms.store_lz4))),
        "memmap, DataLoader(2)": (f"{PEERS}.memmap_loader", ("volumes", folder)),
        "memmap as float32, DataLoader(2)": (f"{PEERS}.memmap_loader", ("floats", folder)),
        "MONAI PersistentDataset, 2 workers": (monai, ("persistent", folder)),
        "MONAI PersistentDataset, 2 workers, float32": (monai, ("persistent-floats", folder)),
        "MONAI CacheDataset in-process": (monai, ("cache", folder)),
        "MONAI CacheDataset in-process, float32": (monai, ("cache-floats", folder)),
        "LitData, 2 workers": (f"{PEERS}.litdata_stream", ("volumes", folder)),
    }


def _slice_candidates(forms: volumes.BenchVolumes) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder = str(forms.folder)
    return {
        "voco slices": (OURS, ("slices", folder, str(forms.store))),
        "memmap slices, DataLoader(2)": (f"{PEERS}.memmap_loader", ("slices", folder)),
    }


def _read_candidates(forms: volumes.BenchVolumes) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder = str(forms.folder)
    return {
        "read": (OURS, ("read", folder, str(forms.store), str(forms.store_lz4))),
        "first": (OURS, ("first", folder, str(forms.large))),
    }


def ratios(seconds: dict[str, float | None]) -> dict[str, float | None]:
    """The published ratios, from median seconds by name; None where a peer is not installed.

    Where a peer was measured in two forms, the faster one counts. MONAI's data sets cache the
    output of the transforms; the ratio is of float32, which MONAI documents, and the one of the
    stores' own type is given beside it.
    """

    def speedup(ours: str, *theirs: str) -> float | None:
        known = [value for name in theirs if (value := seconds[name]) is not None]
        own = seconds[ours]
        return min(known) / own if known and own else None

    def slowdown(ours: str) -> float | None:
        own, theirs = seconds[ours], seconds["read memmap"]
        return own / theirs if own and theirs else None

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


def _rows(seconds: dict[str, float | None]) -> list[dict[str, Any]]:
    units = {"first": ("s", 1.0), "read": ("us a volume", 1e6)}
    rows = []
    for name, value in seconds.items():
        kind = "first" if "first" in name else "read" if name.startswith("read") else ""
        unit, factor = units.get(kind, ("ms a batch", 1e3))
        rows.append(row(name, None if value is None else value * factor, unit))
    return rows
