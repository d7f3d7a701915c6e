"""Our own candidates: reads of a store, batches of the loaders, and the time to the first batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from voco_data.store import Store
from voco_data.volumes import aligned_empty
from voco_models.bench.volumes import open_memmap
from voco_models.bench.worker import serve, time_batches
from voco_models.data import Loader, SliceLoader, items_of

CPU = torch.device("cpu")
BATCH = 4
SLICES = 64
READS = 128
"""Volumes that are read in one repeat."""


def main(kind: str, folder: str, *stores: str) -> None:
    """Run the measurement `kind` on `stores`; `folder` has the raw file."""
    measures: dict[str, Callable[[], Callable[[], dict[str, float]]]] = {
        "volumes": lambda: _measure_volumes("voco", Store.open(stores[0])),
        "volumes-lz4": lambda: _measure_volumes("voco lz4", Store.open(stores[0])),
        "slices": lambda: _measure_slices(Store.open(stores[0])),
        "read": lambda: _measure_reads(Path(folder), Store.open(stores[0]), Store.open(stores[1])),
        "first": lambda: _measure_first_batch(stores[0]),
    }
    serve(measures[kind]())


def _measure_volumes(name: str, store: Store) -> Callable[[], dict[str, float]]:
    items = items_of([store])
    _fill_cache(store)
    loader = Loader(items, batch_size=BATCH, seed=0, device=CPU, dtype=torch.float32)
    return time_batches(name, (batch.volumes for batch in loader.batches_from(0)))


def _measure_slices(store: Store) -> Callable[[], dict[str, float]]:
    _fill_cache(store)
    loader = SliceLoader([store], batch_size=SLICES, seed=0, device=CPU, dtype=torch.float32)
    return time_batches("voco slices", (batch.slices for batch in loader.batches_from(0)))


def _measure_reads(folder: Path, store: Store, compressed: Store) -> Callable[[], dict[str, float]]:
    """Reads of random volumes into allocated memory, from a warm cache, in one thread."""
    raw, rng = open_memmap(folder), np.random.default_rng(0)
    out = aligned_empty(store.grid, store.dtype)

    def measure() -> dict[str, float]:
        rows = rng.choice(store.rows, READS).tolist()
        times = {}
        for name, read in (
            ("read memmap", lambda row: np.copyto(out, raw[row])),
            ("read voco", lambda row: store.read(row, out)),
            ("read voco lz4", lambda row: compressed.read(row, out)),
        ):
            start = time.perf_counter()
            for row in rows:
                read(row)
            times[name] = (time.perf_counter() - start) / READS
        return times

    _fill_cache(store)
    _fill_cache(compressed)
    return measure


def _fill_cache(store: Store) -> None:
    """Read each volume three times: the first read verifies the chunk, the second maps its file."""
    for row in store.rows.tolist():
        for _ in range(3):
            store.read(row)


def _measure_first_batch(path: str) -> Callable[[], dict[str, float]]:
    """The time to open a store, verify first reads, and get the first batch."""

    def measure() -> dict[str, float]:
        start = time.perf_counter()
        loader = Loader(items_of([Store.open(path)]), batch_size=BATCH, seed=0, device=CPU)
        stream = loader.batches_from(0)
        next(stream)
        seconds = time.perf_counter() - start
        stream.close()
        return {"voco first batch": seconds}

    return measure
