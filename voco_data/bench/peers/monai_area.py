"""MONAI: `LoadImage` on the folder, then `Resize(mode="area")`.

`LoadImage` picks its reader itself: ITK's for DICOM where it is installed, else pydicom's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def prepare(folder: Path, out: Path) -> Callable[[], None]:
    """Both grids of the series in `folder`."""
    import torch
    from monai.transforms.compose import Compose
    from monai.transforms.io.array import LoadImage
    from monai.transforms.spatial.array import Resize

    from voco_data.bench.peers.grids import GRIDS, save, to_grey

    torch.set_num_threads(1)
    load = Compose([LoadImage(image_only=True, ensure_channel_first=True)])
    # MONAI's axes are (x, y, z).
    resize = [Resize(spatial_size=grid[::-1], mode="area") for grid in GRIDS]

    def run() -> None:
        image = load(str(folder))
        for to_grid in resize:
            small = np.asarray(to_grid(image))[0]
            save(out, to_grey(small.transpose(2, 1, 0)))

    return run
