"""TorchIO: `ScalarImage` on the folder, then `Resize`, whose default is linear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def prepare(folder: Path, out: Path) -> Callable[[], None]:
    """Both grids of the series in `folder`."""
    import SimpleITK as sitk
    import torch
    import torchio

    from voco_data.bench.peers.grids import GRIDS, save, to_grey

    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    resize = [torchio.Resize(grid[::-1]) for grid in GRIDS]

    def run() -> None:
        image = torchio.ScalarImage(folder)
        for to_grid in resize:
            save(out, to_grey(to_grid(image).numpy()[0].transpose(2, 1, 0)))

    return run
