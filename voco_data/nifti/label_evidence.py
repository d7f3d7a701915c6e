"""Label maps against images of HU, by their voxels: names do not tell.

A label fills connected regions, so most neighbours inside are equal. In an image noise makes them
differ, also where HU were lost in 8 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_LABEL = 255
MIN_LABEL = -50
"""Some label maps mark ignored voxels with -1."""
MIN_EQUAL_SHARE = 0.6
"""Of neighbours that are not both 0, those that are equal, in a label map: along rows or columns,
because structures may be thin in one direction. Equal neighbours of the lowest and of the highest
value do not count."""
MAX_FEW_LABELS = 8
"""A map with no more values is one of labels, however thin its structures are."""

MAX_CONSTANT_BYTES = 2**28
"""So many bytes of one value at the start of a file are enough to call it constant: gzip makes a
thousandth of them, so a small file could hold gigabytes. A CT has noise in every slice."""

_N_VALUES = MAX_LABEL - MIN_LABEL + 1


class LabelEvidence:
    """What the planes of a file that were added so far show."""

    def __init__(self) -> None:
        self.has_only_labels = True
        """Whether all values are whole numbers from `MIN_LABEL` to `MAX_LABEL`."""
        self.constant_bytes = 0
        """Bytes of the first planes, as long as they have one value."""
        self._value: Any = None
        self._varies = False
        self._present = np.zeros(_N_VALUES, bool)
        self._n_unequal = np.zeros(2, np.int64)
        """Neighbours that differ, along rows and along columns."""
        self._n_equal = np.zeros((2, _N_VALUES), np.int64)
        """Neighbours that are equal, by their value."""

    def add(self, plane: npt.NDArray[Any], rounded: npt.NDArray[Any]) -> None:
        """Add one plane (row, column), and the same plane rounded to whole numbers."""
        low, high = plane.min(), plane.max()
        self._count_constant(low, high, plane.nbytes)
        self.has_only_labels = bool(
            self.has_only_labels
            and low >= MIN_LABEL
            and high <= MAX_LABEL
            and np.array_equal(rounded, plane)
        )
        if not self.has_only_labels:
            return
        if low == high:
            self._add_constant(int(low) - MIN_LABEL, plane.shape)
            return
        labels = rounded.astype(np.int16)
        self._present |= np.bincount((labels - MIN_LABEL).ravel(), minlength=_N_VALUES) > 0
        for axis, (one, other) in enumerate(
            ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:]))
        ):
            is_equal = one == other
            self._n_unequal[axis] += is_equal.size - np.count_nonzero(is_equal)
            self._n_equal[axis] += np.bincount(one[is_equal] - MIN_LABEL, minlength=_N_VALUES)

    def _count_constant(self, low: Any, high: Any, n_bytes: int) -> None:
        if self._value is None:
            self._value = low
        self._varies = self._varies or not low == high == self._value
        if not self._varies:
            self.constant_bytes += n_bytes

    def _add_constant(self, index: int, shape: tuple[int, ...]) -> None:
        """Add a plane of one label, all of whose neighbours are equal."""
        rows, columns = shape
        self._present[index] = True
        self._n_equal[0, index] += (rows - 1) * columns
        self._n_equal[1, index] += rows * (columns - 1)

    @property
    def is_constant(self) -> bool:
        """Whether all voxels have one value, which may be a label, as in a mask of no organ."""
        return self.has_only_labels and int(np.count_nonzero(self._present)) == 1

    @property
    def looks_like_labels(self) -> bool:
        """Whether the planes are those of a label map. One of a single value is not."""
        n_values = int(np.count_nonzero(self._present))
        if not self.has_only_labels or n_values < 2:
            return False
        if n_values <= MAX_FEW_LABELS:
            return True
        # 0 is the background. HU that were clipped to a window are equal at both of its ends.
        present = np.flatnonzero(self._present)
        is_counted = np.ones(_N_VALUES, bool)
        is_counted[[-MIN_LABEL, present[0], present[-1]]] = False
        n_equal = self._n_equal[:, is_counted].sum(axis=1)
        return bool((n_equal >= MIN_EQUAL_SHARE * (n_equal + self._n_unequal)).any())
