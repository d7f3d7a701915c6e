"""HU at the ends of int16: clipped by the reader or by the program that wrote the file.

At the upper end they are metal, or no HU. At the lower end they are padding around the field of
view, as some scanners write it, or, inside, no HU.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

FLAG = "hu_clipped"
MAX_CLIPPED_SHARE = 0.01
"""Of all voxels of a volume. Metal that exceeds 32767 HU fills less."""
_LOWEST, _HIGHEST = np.iinfo(np.int16).min, np.iinfo(np.int16).max


class ClippedVoxels:
    """Counts the clipped voxels of a volume, plane by plane."""

    def __init__(self) -> None:
        self._n_high = self._n_low = self._n = 0

    def add(self, plane: npt.NDArray[np.int16]) -> None:
        """Count those of one plane (rows, columns)."""
        self._n += plane.size
        if plane.max() == _HIGHEST:
            self._n_high += int(np.count_nonzero(plane == _HIGHEST))
        if plane.min() == _LOWEST:
            self._n_low += int(_count_enclosed(plane, _LOWEST))

    def flags(self) -> tuple[str, ...]:
        """`hu_clipped` if there are any. Raises SeriesRefused(NOT_HU) if they are too many."""
        n_clipped = self._n_high + self._n_low
        if n_clipped > MAX_CLIPPED_SHARE * self._n:
            raise SeriesRefused(
                Reason.NOT_HU,
                f"{n_clipped / self._n:.1%} of the voxels are clipped at the ends of 16 bits "
                f"({self._n_high} at {_HIGHEST}, {self._n_low} at {_LOWEST} HU)",
            )
        return (FLAG,) if n_clipped else ()


@numba.njit(nogil=True, cache=True)
def _count_enclosed(plane, value):  # type: ignore[no-untyped-def]  # pragma: no cover
    """How many pixels of `value` have pixels of other values on all four sides.

    Padding has not: it reaches the border of the image along its row or its column.
    """
    rows, columns = plane.shape
    first, last = np.full(columns, rows), np.full(columns, -1)
    for y in range(rows):
        for x in range(columns):
            if plane[y, x] != value:
                first[x] = min(first[x], y)
                last[x] = y
    count = 0
    for y in range(rows):
        left, right = 0, columns - 1
        while left < columns and plane[y, left] == value:
            left += 1
        while right > left and plane[y, right] == value:
            right -= 1
        for x in range(left, right):
            count += plane[y, x] == value and first[x] < y < last[x]
    return count
