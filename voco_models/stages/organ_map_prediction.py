"""Maps of organs that the networks of a run predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from voco_data.store import Store
from voco_models.data import READER_THREADS, Item, Loader
from voco_models.objectives import PLANES, ProjectionObjective

BATCH_SIZE = 4


@torch.inference_mode()
def predict_maps(
    objective: ProjectionObjective, store: Store, rows: Sequence[int], device: torch.device
) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Probabilities (C, Z, X) and (C, Z, Y) of each of `rows`, float64."""
    objective = objective.to(device).eval()
    items = [Item(store, row) for row in rows]
    maps = []
    for start in range(0, len(items), BATCH_SIZE):
        part = items[start : start + BATCH_SIZE]
        loader = Loader(
            part,
            batch_size=len(part),
            seed=0,
            device=device,
            threads=min(READER_THREADS, len(part)),
            shuffle=False,
        )
        batch = next(iter(loader.batches_from(0)))
        logits = objective.predict(batch.volumes)
        planes = [logits[plane].float().sigmoid().double().cpu().numpy() for plane in PLANES]
        maps += list(zip(*planes, strict=True))
    return maps
