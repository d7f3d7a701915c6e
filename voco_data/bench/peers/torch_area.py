"""pydicom, then torch's `interpolate(mode="area")` in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def prepare(folder: Path, out: Path) -> Callable[[], None]:
    """Both grids of the series in `folder`."""
    import torch

    from voco_data.bench.peers.grids import GRIDS, save, to_grey
    from voco_data.bench.peers.pydicom_stack import read

    torch.set_num_threads(1)

    def run() -> None:
        hu = torch.from_numpy(read(folder, np.float32))[None, None]
        for grid in GRIDS:
            small = torch.nn.functional.interpolate(hu, size=grid, mode="area")
            save(out, to_grey(small[0, 0].numpy()))

    return run
