"""LitData: volumes written by `optimize` in chunks of 64 MB, streamed from the local folder.

Its documentation advises StreamingDataLoader with workers, and 64 MB chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize
from torch import Tensor

from voco_models.bench.volumes import list_npy_files
from voco_models.bench.worker import serve, time_batches

BATCH = 4


def read(path: str) -> Tensor:
    """One sample."""
    return torch.from_numpy(np.load(path))


def main(_: str, folder: str) -> None:
    """Measure shuffled volumes, epoch after epoch."""
    target = str(Path(folder) / "litdata")
    optimize(read, list_npy_files(Path(folder)), target, chunk_bytes="64MB", num_workers=2)
    data = StreamingDataset(target, shuffle=True, seed=0)
    loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=2, persistent_workers=True)

    def batches() -> Iterator[Tensor]:
        while True:
            yield from loader

    serve(time_batches("LitData, 2 workers", batches()))
