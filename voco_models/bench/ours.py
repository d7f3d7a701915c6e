"""Our candidates: reads of the store, batches of the loaders, and the time to the first batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from voco_data.store import Store
from voco_data.volumes import aligned_empty
from voco_models.bench.volumes import memmap
from voco_models.bench.worker import seconds_a_batch, serve
from voco_models.data import Loader, SliceLoader, items_of

CPU = torch.device("cpu")
BATCH = 4
SLICES = 64
READS = 128
"""Volumes read in a repeat."""


def main(what: str, folder: str, *stores: str) -> None:
    """Measure `what` on `stores`; `folder` holds the raw file."""
    measures: dict[str, Callable[[], Callable[[], dict[str, float]]]] = {
        "volumes": lambda: _measure_volumes("voco", Store.open(stores[0])),
        "volumes-lz4": lambda: _measure_volumes("voco lz4", Store.open(stores[0])),
        "slices": lambda: _measure_slices(Store.open(stores[0])),
        "read": lambda: _measure_reads(Path(folder), Store.open(stores[0]), Store.open(stores[1])),
        "first": lambda: _measure_first_batch(stores[0]),
    }
    serve(measures[what]())


def _measure_volumes(name: str, store: Store) -> Callable[[], dict[str, float]]:
    items = items_of([store])
    _warm(store)
    loader = Loader(items, batch_size=BATCH, seed=0, device=CPU, dtype=torch.float32)
    return seconds_a_batch(name, (batch.volumes for batch in loader.at(0)))


def _measure_slices(store: Store) -> Callable[[], dict[str, float]]:
    _warm(store)
    loader = SliceLoader([store], batch_size=SLICES, seed=0, device=CPU, dtype=torch.float32)
    return seconds_a_batch("voco slices", (batch.slices for batch in loader.at(0)))


def _measure_reads(folder: Path, store: Store, compressed: Store) -> Callable[[], dict[str, float]]:
    """Reads of one random volume into allocated memory, from a warm cache, in one thread."""
    raw, rng = memmap(folder), np.random.default_rng(0)
    out = aligned_empty(store.grid, store.dtype)

    def measure() -> dict[str, float]:
        rows = rng.choice(store.rows, READS).tolist()
        times = {}
        for name, read in (
            ("read memmap", lambda row: np.copyto(out, raw[row])),
            ("read voco", lambda row: store.read(row, out)),
            ("read voco lz4", lambda row: compressed.read(row, out)),
        ):
            began = time.perf_counter()
            for row in rows:
                read(row)
            times[name] = (time.perf_counter() - began) / READS
        return times

    _warm(store)
    _warm(compressed)
    return measure


def _warm(store: Store) -> None:
    """Read each volume three times: the first read checks the chunk, the second maps its file."""
    for row in store.rows.tolist():
        for _ in range(3):
            store.read(row)


def _measure_first_batch(path: str) -> Callable[[], dict[str, float]]:
    """Opening a store, the checks of first reads, and the first batch."""

    def measure() -> dict[str, float]:
        began = time.perf_counter()
        loader = Loader(items_of([Store.open(path)]), batch_size=BATCH, seed=0, device=CPU)
        stream = loader.at(0)
        next(stream)
        took = time.perf_counter() - began
        stream.close()
        return {"voco first batch": took}

    return measure
