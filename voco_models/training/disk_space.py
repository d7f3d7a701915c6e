"""Whether the checkpoints of a run fit on the disk, before its first step."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from voco_data.errors import VocoError

MOMENTS = 2
"""Tensors that AdamW keeps for each trainable parameter."""
COPIES = 2
"""A checkpoint is written whole before it replaces the one before."""
SPARE_BYTES = 16 * 2**20
"""History, predictions, and what a file has beside its tensors."""


def checkpoint_bytes(objective: nn.Module, *, moments: int = MOMENTS) -> int:
    """Bytes of the tensors in one checkpoint: weights, averages, and the optimiser's `moments`."""
    state = sum(tensor.nbytes for tensor in objective.state_dict().values())
    trained = sum(p.nbytes for p in objective.parameters() if p.requires_grad)
    return int(state + moments * trained)


def check_disk_space(out: Path, need: int) -> None:
    """Raise VocoError unless `need` bytes, twice and some spare, are free where `out` will be."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    free, wanted = shutil.disk_usage(there).free, COPIES * need + SPARE_BYTES
    if free < wanted:
        raise VocoError(
            f"{out}: {free / 1e9:.1f} GB free, {wanted / 1e9:.1f} GB needed for checkpoints; "
            "free some space or give another --out"
        )
