"""SimpleITK: its series reader, its linear resampling onto the grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def prepare(folder: Path, out: Path) -> Callable[[], None]:
    """Both grids of the series in `folder`."""
    import SimpleITK as sitk

    from voco_data.bench.peers.grids import GRIDS, save, to_grey

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def run() -> None:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        for grid in GRIDS:
            size = grid[::-1]
            old = zip(image.GetSize(), image.GetSpacing(), size, strict=True)
            spacing = [n * step / m for n, step, m in old]
            # The outer edges of both grids lie at one place.
            shift = [
                (new - step) / 2 for new, step in zip(spacing, image.GetSpacing(), strict=True)
            ]
            turned = np.reshape(image.GetDirection(), (3, 3)) @ shift
            small = sitk.Resample(
                image,
                size,
                sitk.Transform(),
                sitk.sitkLinear,
                (np.asarray(image.GetOrigin()) + turned).tolist(),
                spacing,
                image.GetDirection(),
                -1024,
                sitk.sitkFloat32,
            )
            save(out, to_grey(sitk.GetArrayViewFromImage(small)))

    return run
