"""A series as most scripts read it: pydicom, ordered by position, slope and intercept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt


def read(folder: Path, dtype: type[np.floating]) -> npt.NDArray[np.floating]:
    """HU (z, y, x) in `dtype`."""
    import pydicom

    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    planes = [
        s.pixel_array.astype(dtype) * dtype(s.RescaleSlope) + dtype(s.RescaleIntercept)
        for s in slices
    ]
    return np.stack(planes)
