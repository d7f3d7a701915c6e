"""What every peer makes: the grids, the window, the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.store.spec import FINETUNE, PRETRAIN

GRIDS = (PRETRAIN.grid, FINETUNE.grid)
LOW_HU, WIDTH_HU = PRETRAIN.window_low_hu, PRETRAIN.window_width_hu


def to_grey(hu: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """HU through the window to 0..255, rounded half up."""
    grey = np.clip((hu - LOW_HU) * (255.0 / WIDTH_HU) + 0.5, 0.0, 255.0)
    return np.asarray(grey, np.uint8)


def save(out: Path, grey: npt.NDArray[np.uint8]) -> None:
    """As .npy, named by its size."""
    np.save(out / f"{grey.shape[0]}.npy", grey)
