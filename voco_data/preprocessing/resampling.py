"""Resample HU to stored voxels in one pass: exact area average, window and quantisation.

Along an axis that shrinks, an output voxel is the average of the input it covers, fractions of
voxels included. Along an axis that grows, it is the linear interpolation at its centre. The three
axes are separable, so each is a small table of weights; the kernel reads the volume once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from voco_data.volumes import Index, Quantisation, Voxels

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_HALF = np.float32(0.5)
_ROUNDING = 1e-9
"""Smaller shares of a voxel count as 0: they are rounding errors of the edges."""


@dataclass(frozen=True, slots=True)
class AxisWeights:
    """For each output index: the inputs first..first+count-1 and their weights (sum 1)."""

    first: Ints
    """(n_out,) first input index."""
    count: Ints
    """(n_out,) number of inputs, at least 1."""
    weights: Floats
    """(n_out, max count), zero beyond `count`."""


def axis_weights(start: int, stop: int, n_out: int) -> AxisWeights:
    """Weights that bring the inputs start..stop-1 to `n_out` outputs."""
    n_in = stop - start
    if n_in < 1 or n_out < 1:
        raise ValueError(f"cannot resample {n_in} voxels to {n_out}")
    dense = _area_weights(n_in, n_out) if n_in >= n_out else _linear_weights(n_in, n_out)
    is_used = dense > 0
    first = is_used.argmax(axis=1)
    count = dense.shape[1] - is_used[:, ::-1].argmax(axis=1) - first
    weights = np.zeros((n_out, int(count.max())), np.float32)
    for out, (low, n) in enumerate(zip(first, count, strict=True)):
        weights[out, :n] = dense[out, low : low + n]
    return AxisWeights((first + start).astype(np.int64), count.astype(np.int64), weights)


def _area_weights(n_in: int, n_out: int) -> npt.NDArray[np.float64]:
    """(n_out, n_in): the share of each output interval that each input voxel covers."""
    edges = np.linspace(0.0, n_in, n_out + 1)
    index = np.arange(n_in)
    low, high = edges[:-1, None], edges[1:, None]
    dense = np.clip(np.minimum(index + 1, high) - np.maximum(index, low), 0.0, 1.0)
    dense[dense < _ROUNDING] = 0.0
    weights: npt.NDArray[np.float64] = dense / dense.sum(axis=1, keepdims=True)
    return weights


def _linear_weights(n_in: int, n_out: int) -> npt.NDArray[np.float64]:
    """(n_out, n_in): linear interpolation at the output centres, constant beyond the ends."""
    centres = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0.0, n_in - 1.0)
    below = np.minimum(centres.astype(np.int64), max(n_in - 2, 0))
    weight_above = centres - below
    dense = np.zeros((n_out, n_in))
    rows = np.arange(n_out)
    dense[rows, below] = 1.0 - weight_above
    dense[rows, np.minimum(below + 1, n_in - 1)] += weight_above
    return dense


def resample(
    hu: npt.NDArray[np.int16],
    start: Index,
    stop: Index,
    grid: Index,
    quantisation: Quantisation,
    floor_hu: int,
) -> Voxels:
    """The box start..stop of `hu` (z, y, x) on `grid`, quantised.

    `hu` may be a permuted or flipped view. HU below `floor_hu` count as `floor_hu`. The window is
    applied after the average, which is what a scanner with larger voxels would measure.
    """
    z, y, x = (axis_weights(a, b, n) for a, b, n in zip(start, stop, grid, strict=True))
    out: Voxels = np.empty(grid, quantisation.dtype)
    steps = quantisation.highest - quantisation.lowest
    _resample_kernel(
        hu,
        (z.first, z.count, z.weights),
        (y.first, y.count, y.weights),
        # A row of weights for each tap, so that the sum over x has no inner loop.
        (x.first - start[2], np.ascontiguousarray(x.weights.T)),
        (start[2], stop[2]),
        np.float32(quantisation.low_hu),
        np.float32(quantisation.steps_per_hu),
        np.int16(floor_hu),
        # Arguments, as numba caches a kernel by its own file and would keep older constants.
        (np.float32(steps), np.int32(quantisation.lowest)),
        out,
    )
    return out


@numba.njit(nogil=True, cache=True)
def _resample_kernel(  # type: ignore[no-untyped-def]  # pragma: no cover
    hu, z, y, x, columns, low, scale, floor, stored_range, out
):
    """Average over z row by row, then over y into a plane of rows, then over x.

    A row of the input is read once for each output slice that it touches, while its sum stays in
    the first cache. Rows run along x, the inner loop of the first two sums. Fast math is off: sums
    in another order, or fused with products, would give other pixels on other processors.
    """
    z_first, z_count, z_weights = z
    y_first, y_count, y_weights = y
    x_first, x_weights = x
    left, right = columns
    steps, lowest = stored_range
    width = right - left
    # Rows are padded with 0 for the taps of weight 0 beyond their end.
    rows = np.zeros((out.shape[1], width + x_weights.shape[0]), np.float32)
    line = np.empty(width, np.float32)
    total = np.empty(out.shape[2], np.float32)
    for oz in range(out.shape[0]):
        rows[:] = np.float32(0.0)
        summed = -1
        for oy in range(out.shape[1]):
            for ky in range(y_count[oy]):
                iy = y_first[oy] + ky
                if iy != summed:  # output rows share the input row on their border
                    summed = iy
                    line[:] = np.float32(0.0)
                    for kz in range(z_count[oz]):
                        weight = z_weights[oz, kz]
                        source = hu[z_first[oz] + kz, iy, left:right]
                        for i in range(width):
                            line[i] += weight * np.float32(max(source[i], floor))
                weight = y_weights[oy, ky]
                row = rows[oy]
                for i in range(width):
                    row[i] += weight * line[i]
        for oy in range(out.shape[1]):
            _sum_taps(rows[oy], x_first, x_weights, total)
            for ox in range(out.shape[2]):
                value = (total[ox] - low) * scale + _HALF
                step = np.int32(min(max(value, np.float32(0.0)), steps))
                out[oz, oy, ox] = lowest + step


@numba.njit(nogil=True, cache=True)
def _sum_taps(row, first, w, total):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The weighted sums of `row` from each `first` on, unrolled for the usual few taps."""
    count = w.shape[0]
    if count == 2:
        for i in range(total.size):
            a = first[i]
            total[i] = w[0, i] * row[a] + w[1, i] * row[a + 1]
    elif count == 3:
        for i in range(total.size):
            a = first[i]
            total[i] = w[0, i] * row[a] + w[1, i] * row[a + 1] + w[2, i] * row[a + 2]
    elif count == 4:
        for i in range(total.size):
            a = first[i]
            near = w[0, i] * row[a] + w[1, i] * row[a + 1]
            total[i] = near + w[2, i] * row[a + 2] + w[3, i] * row[a + 3]
    else:
        total[:] = np.float32(0.0)
        for k in range(count):
            for i in range(total.size):
                total[i] += w[k, i] * row[first[i] + k]
