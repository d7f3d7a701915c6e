"""One raw file, np.memmap, and PyTorch's DataLoader with 2 workers.

PyTorch's documentation advises persistent workers; samples are converted to float32 in the main
process, so that a quarter of the bytes is transferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from voco_data.volumes import Voxel
from voco_models.bench.volumes import DTYPE, open_memmap
from voco_models.bench.worker import serve, time_batches

ENDLESS = 10**9
KINDS = {
    "volumes": ("memmap, DataLoader(2)", 4),
    "floats": ("memmap as float32, DataLoader(2)", 4),
    "slices": ("memmap slices, DataLoader(2)", 64),
}
"""Name and batch size of each kind."""


class Volumes(Dataset[Tensor]):
    """A sample is a volume, or a slice of one."""

    def __init__(self, raw: np.memmap[tuple[int, ...], np.dtype[Voxel]], kind: str) -> None:
        self._samples: Any = raw if kind != "slices" else raw.reshape(-1, *raw.shape[2:])
        self._dtype = np.dtype(np.float32) if kind == "floats" else DTYPE

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Tensor:
        """A copy, because `torch.from_numpy` needs writable memory."""
        return torch.from_numpy(self._samples[index].astype(self._dtype))


def main(kind: str, folder: str) -> None:
    """Measure random samples."""
    name, size = KINDS[kind]
    samples = Volumes(open_memmap(Path(folder)), kind)
    sampler = RandomSampler(samples, replacement=True, num_samples=ENDLESS)
    batches: Iterator[Tensor] = iter(
        DataLoader(samples, size, sampler=sampler, num_workers=2, persistent_workers=True)
    )
    serve(time_batches(name, batches))
