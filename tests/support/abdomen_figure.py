"""A hand-made patient of ellipses and boxes whose ends are known to the slice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SPACING_MM = (5.0, 4.0, 4.0)
SHAPE = (120, 90, 130)
ISCHIUM = 27
"""The first slice through the ischium; below it are two femora."""
DOME = 76
"""The first slice without liver."""
MIDDLE = (44.5, 64.5)
"""Row and column of the body's axis."""


def patient() -> npt.NDArray[np.int16]:
    """HU (Z, Y, X): thighs to shoulders, water and bone in air, lungs over two domes."""
    z, y, x = np.ogrid[[slice(n) for n in SHAPE]]
    side, back = np.abs(x - MIDDLE[1]), y - MIDDLE[0]
    hu = np.where((side / 40) ** 2 + (back / 25) ** 2 < 1, 40, -1000) + 0 * z
    inside = (side / 34) ** 2 + (back / 20) ** 2 < 1
    # Each lung is what lies over a dome: 1 pixel off its middle is 0.03 slices lower.
    floor = DOME - 0.03 * ((side - 20) ** 2 + (back + 2) ** 2)
    hu = np.where(inside & (side > 9) & (z >= floor) & (z < 116), -850, hu)
    spine = (side < 5) & (np.abs(back - 12) < 5) & (z >= 43)
    # Heads of the femora stand in the pelvis, whose bone reaches to the midline.
    ischium = (np.abs(side - 12) < 4) & (np.abs(back - 8) < 5) & (z >= ISCHIUM) & (z < 45)
    femur = ((side - 26) ** 2 + (back - 2) ** 2 < 16) & (z < 42)
    hu = np.where(spine | ischium | femur, 500, hu)
    return hu.astype(np.int16)


def arms_and_couch(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The patient with arms along the trunk, hands beside the thighs, on a couch."""
    z, y, x = np.ogrid[[slice(n) for n in hu.shape]]
    off = (np.abs(x - MIDDLE[1]) - 48) ** 2 + (y - MIDDLE[0]) ** 2
    hu = np.where((off < 42) & (z > 8) & (hu < -500), 40, hu)
    hu = np.where((off < 5) & (z > 10), 600, hu)
    hu[:, 72:74, 5:125] = 150
    return hu.astype(np.int16)
