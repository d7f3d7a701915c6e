"""The naive way: pydicom, float64, scipy.ndimage.zoom with its default order 3, .npy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def prepare(folder: Path, out: Path) -> Callable[[], None]:
    """Both grids of the series in `folder`."""
    from scipy import ndimage

    from voco_data.bench.peers.grids import GRIDS, save, to_grey
    from voco_data.bench.peers.pydicom_stack import read

    def run() -> None:
        hu = read(folder, np.float64)
        for grid in GRIDS:
            factors = [n / m for n, m in zip(grid, hu.shape, strict=True)]
            save(out, to_grey(ndimage.zoom(hu, factors)))

    return run
