"""`voco bench loader`: reads for training, ours and those of peers, in one run.

A batch of volumes is 4 random volumes of (32, 192, 192) as float32, a batch of slices 64 random
slices of (192, 192) as float32; everything lies in the page cache, checks of the first touch are
done. Ratios of loaders are our rate over theirs, those of single reads our time over np.memmap's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from voco_models.bench import machine, volumes
from voco_models.bench.asking import medians, row

REPEATS = 7
PEERS = "voco_models.bench.peers"
OURS = "voco_models.bench.ours"


def bench(repeats: int = REPEATS) -> dict[str, Any]:
    """Rows with medians over repeats, ratios, and the machine. Takes two minutes or three, and
    1.5 GB in the folder for temporary files, which is emptied at the end.
    """
    with tempfile.TemporaryDirectory(prefix="voco-bench-", ignore_cleanup_errors=True) as name:
        made = volumes.make(Path(name))
        found = {
            **medians(_of_volumes(made), made.folder, repeats),
            **medians(_of_slices(made), made.folder, repeats),
            **medians(_of_reads(made), made.folder, repeats),
        }
    return {
        "rows": [*_rows(found), row("LZ4 ratio", made.lz4_ratio, "times")],
        "ratios": ratios(found),
        "machine": machine.describe(),
    }


def _of_volumes(made: volumes.Made) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder, monai = str(made.folder), f"{PEERS}.monai_datasets"
    return {
        "voco": (OURS, ("volumes", folder, str(made.store))),
        "voco lz4": (OURS, ("volumes-lz4", folder, str(made.store_lz4))),
        "memmap, DataLoader(2)": (f"{PEERS}.memmap_loader", ("volumes", folder)),
        "memmap as float32, DataLoader(2)": (f"{PEERS}.memmap_loader", ("floats", folder)),
        "MONAI PersistentDataset, 2 workers": (monai, ("persistent", folder)),
        "MONAI PersistentDataset, 2 workers, float32": (monai, ("persistent-floats", folder)),
        "MONAI CacheDataset in-process": (monai, ("cache", folder)),
        "MONAI CacheDataset in-process, float32": (monai, ("cache-floats", folder)),
        "LitData, 2 workers": (f"{PEERS}.litdata_stream", ("volumes", folder)),
    }


def _of_slices(made: volumes.Made) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder = str(made.folder)
    return {
        "voco slices": (OURS, ("slices", folder, str(made.store))),
        "memmap slices, DataLoader(2)": (f"{PEERS}.memmap_loader", ("slices", folder)),
    }


def _of_reads(made: volumes.Made) -> dict[str, tuple[str, tuple[str, ...]]]:
    folder = str(made.folder)
    return {
        "read": (OURS, ("read", folder, str(made.store), str(made.store_lz4))),
        "first": (OURS, ("first", folder, str(made.large))),
    }


def ratios(seconds: dict[str, float | None]) -> dict[str, float | None]:
    """What is promised, from median seconds by name; None where a peer is not installed.

    Where a peer was measured in two forms, the faster one counts. Of MONAI's data sets, which keep
    what the transforms give, the form counts that MONAI documents, float32; uint8 stands beside it.
    """

    def faster(ours: str, *theirs: str) -> float | None:
        known = [value for name in theirs if (value := seconds[name]) is not None]
        own = seconds[ours]
        return min(known) / own if known and own else None

    def longer(ours: str) -> float | None:
        own, theirs = seconds[ours], seconds["read memmap"]
        return own / theirs if own and theirs else None

    cache = "MONAI CacheDataset in-process"
    memmap = "memmap, DataLoader(2)"
    persistent = "MONAI PersistentDataset, 2 workers"
    return {
        "memmap_dataloader2": faster("voco", memmap, "memmap as float32, DataLoader(2)"),
        "persistent_dataset2": faster("voco", f"{persistent}, float32"),
        "persistent_dataset2_uint8": faster("voco", persistent),
        "cache_dataset": faster("voco", f"{cache}, float32"),
        "cache_dataset_uint8": faster("voco", cache),
        "litdata": faster("voco", "LitData, 2 workers"),
        "lz4_memmap_dataloader2": faster("voco lz4", memmap, "memmap as float32, DataLoader(2)"),
        "slices_memmap_dataloader2": faster("voco slices", "memmap slices, DataLoader(2)"),
        "volume_read_memmap": longer("read voco"),
        "volume_read_lz4_memmap": longer("read voco lz4"),
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
