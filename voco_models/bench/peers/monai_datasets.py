"""MONAI's PersistentDataset with 2 workers, and its CacheDataset in the process.

`LoadImage` and `EnsureType(track_meta=False)`, as in MONAI's guide to fast training. MONAI's own
type is float32. Each is also measured with the stores' type, a quarter of the bytes, which MONAI
does not advise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from monai.data import CacheDataset, DataLoader, PersistentDataset
from monai.transforms import Compose, EnsureType, LoadImage
from torch import Tensor
from torch.utils.data import RandomSampler

from voco_models.bench.volumes import DTYPE, list_npy_files
from voco_models.bench.worker import serve, time_batches
from voco_models.data import torch_dtype

BATCH = 4
ENDLESS = 10**9


def main(kind: str, folder: str) -> None:
    """Measure random volumes from a full cache."""
    dtype = torch.float32 if kind.endswith("-floats") else torch_dtype(DTYPE)
    transform = Compose(
        [
            LoadImage(reader="NumpyReader", image_only=True, dtype=DTYPE),
            EnsureType(dtype=dtype, track_meta=False),
        ]
    )
    files = list_npy_files(Path(folder))
    form = ", float32" if kind.endswith("-floats") else ""
    if kind.startswith("persistent"):
        name, workers = f"MONAI PersistentDataset, 2 workers{form}", 2
        data = PersistentDataset(files, transform, cache_dir=Path(folder) / f"monai-{kind}")
        for index in range(len(data)):  # fills the cache
            data[index]
    else:
        name, workers = f"MONAI CacheDataset in-process{form}", 0
        data = CacheDataset(files, transform, progress=False, runtime_cache=False)
    sampler = RandomSampler(data, replacement=True, num_samples=ENDLESS)
    loader = DataLoader(
        data,
        batch_size=BATCH,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    batches: Iterator[Tensor] = iter(loader)
    serve(time_batches(name, batches))
