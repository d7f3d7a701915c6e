"""nnU-Net v2: its reader's SimpleITK, its default resampling of images (order 3, order 0 in z)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def prepare(folder: Path, out: Path) -> Callable[[], None]:
    """Both grids of the series in `folder`."""
    import SimpleITK as sitk
    from nnunetv2.preprocessing.resampling.default_resampling import (
        resample_data_or_seg_to_shape,
    )

    from voco_data.bench.peers.grids import GRIDS, save, to_grey

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def run() -> None:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        hu = sitk.GetArrayFromImage(image).astype(np.float32)[None]
        spacing = image.GetSpacing()[::-1]
        for grid in GRIDS:
            target = [s * n / m for s, n, m in zip(spacing, hu.shape[1:], grid, strict=True)]
            small = resample_data_or_seg_to_shape(
                hu, list(grid), spacing, target, is_seg=False, order=3, order_z=0
            )
            save(out, to_grey(np.asarray(small)[0]))

    return run
