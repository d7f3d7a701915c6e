"""Connected components of a mask, labelled as by scipy.ndimage.label, but faster."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


def label_components(
    mask: npt.NDArray[np.bool_], *, across_slices: bool = True
) -> tuple[npt.NDArray[np.int32], int]:
    """Labels (Z, Y, X) of the face-connected components of a mask, and their number.

    Components are numbered from 1 in the order of their first voxels. Without `across_slices`,
    voxels of different slices are never connected.
    """
    labels = np.zeros(mask.shape, np.int32)
    return labels, int(_label_runs(np.ascontiguousarray(mask), across_slices, labels))


@numba.njit(nogil=True, cache=True)
def _root(parents, label):  # type: ignore[no-untyped-def]  # pragma: no cover
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


@numba.njit(nogil=True, cache=True)
def _label_runs(mask, across_slices, labels):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Union-find: a label for each run along x, joined where runs touch; then final numbers.

    The root of a set of joined labels is the smallest, which its first voxel has.
    """
    depth, height, width = mask.shape
    parents = np.zeros(depth * height * ((width + 1) // 2) + 1, np.int32)
    last = 0
    for z in range(depth):
        for y in range(height):
            current = 0
            for x in range(width):
                if not mask[z, y, x]:
                    current = 0
                    continue
                if current == 0:
                    last += 1
                    current = last
                    parents[current] = current
                labels[z, y, x] = current
                if (
                    y > 0
                    and mask[z, y - 1, x]
                    and not (x > 0 and mask[z, y - 1, x - 1] and mask[z, y, x - 1])
                ):
                    _join(parents, current, labels[z, y - 1, x])
                if (
                    across_slices
                    and z > 0
                    and mask[z - 1, y, x]
                    and not (x > 0 and mask[z - 1, y, x - 1] and mask[z, y, x - 1])
                ):
                    _join(parents, current, labels[z - 1, y, x])
    count = 0
    numbers = np.zeros(last + 1, np.int32)
    for number in range(1, last + 1):
        root = _root(parents, number)
        if root == number:
            count += 1
            numbers[number] = count
        else:
            numbers[number] = numbers[root]
    flat = labels.reshape(-1)
    for i in range(flat.size):
        flat[i] = numbers[flat[i]]
    return count


@numba.njit(nogil=True, cache=True)
def _join(parents, one, other):  # type: ignore[no-untyped-def]  # pragma: no cover
    a, b = _root(parents, one), _root(parents, other)
    if a < b:
        parents[b] = a
    elif b < a:
        parents[a] = b
