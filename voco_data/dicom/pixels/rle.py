"""Common frames straight to HU: RLE and raw 16-bit pixels, sign, slope 1 and intercept in one go.

The kernels accept what is plainly right and nothing else. Whatever is odd about a frame, such as a
run that leaves its segment or bytes behind the last pixel, they give back to the decoder that
refuses in words. No damaged byte makes them read or write out of bounds.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WIDTH = 64
"""Bytes that one run copies at once; most runs are shorter, and a loop of bytes costs more."""
SLACK = 256
"""Bytes behind the encoded bytes, and behind a plane of decoded ones, that copies may touch."""
RLE_HEADER = 64
"""PS3.5 G.5: the number of segments and 15 offsets, each of 32 bits."""

Bytes = npt.NDArray[np.uint8]


def _run_of(context, target, at, source, where, literal):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """target[at : at + WIDTH] = source[where : where + WIDTH], or its first byte if not `literal`.

    One vector load, one select and one store: which kind a run is cannot be predicted.
    """
    signature = types.void(target, types.int64, source, types.int64, types.boolean)

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        to, to_at, of, of_at, is_literal = values
        to_data = context.make_array(signature.args[0])(context, builder, to).data
        of_data = context.make_array(signature.args[2])(context, builder, of).data
        vector = ir.VectorType(ir.IntType(8), WIDTH)
        nothing = ir.Constant(vector, ir.Undefined)
        first = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        near = builder.bitcast(builder.gep(of_data, [of_at]), vector.as_pointer())
        run = builder.load(near)
        run.align = 1
        repeated = builder.shuffle_vector(run, nothing, first)
        there = builder.bitcast(builder.gep(to_data, [to_at]), vector.as_pointer())
        builder.store(builder.select(is_literal, run, repeated), there).align = 1
        return context.get_dummy_value()

    return signature, generate


_put_run: Any = intrinsic(_run_of)


@numba.njit(nogil=True, cache=True)
def _plane(data, at, end, out, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Decode one segment, data[at:end], to exactly `size` bytes; False for anything else.

    PS3.5 G.3.2. `data` and `out` reach SLACK bytes beyond `end` and `size`.
    """
    n = np.int64(0)
    while n < size:
        if at >= end:
            return False
        control = np.int64(data[at])
        at += 1
        if control == 128:  # no run
            continue
        literal = control < 128
        count = control + 1 if literal else 257 - control
        step = count if literal else 1
        if n + count > size or at + step > end:
            return False
        _put_run(out, n, data, at, literal)
        if count > WIDTH:
            _put_run(out, n + WIDTH, data, at + WIDTH if literal else at, literal)
        at += step
        n += count
    return end - at <= 1  # a segment has an even length (PS3.5 G.3.1)


@numba.njit(nogil=True, cache=True)
def _offset(data, at):  # type: ignore[no-untyped-def]  # pragma: no cover
    low = np.int64(data[at]) | np.int64(data[at + 1]) << 8
    return low | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24


@numba.njit(nogil=True, cache=True)
def rle_planes(data, start, length, high, low, pixels):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Decode the RLE frame data[start : start + length] of 16-bit pixels into two byte planes.

    True if header and segments are what PS3.5 G.3 to G.5 ask for, to the last byte. `data` reaches
    SLACK bytes beyond the frame, `high` and `low` beyond `pixels`.
    """
    if length < RLE_HEADER or start + length + SLACK > data.size:
        return False
    if min(high.size, low.size) < pixels + SLACK:
        return False
    first, second = _offset(data, start + 4), _offset(data, start + 8)
    if _offset(data, start) != 2 or first != RLE_HEADER or not first < second < length:
        return False
    middle, end = start + second, start + length
    return _plane(data, start + first, middle, high, pixels) and _plane(
        data, middle, end, low, pixels
    )


@numba.njit(nogil=True, cache=True)
def planes_to_hu(high, low, mask, sign, least, most, add, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Byte planes to HU, out (pixels,) int16: see `to_hu`."""
    for i in range(out.size):
        stored = np.uint16(high[i]) << np.uint16(8) | np.uint16(low[i])
        value = np.int32((np.int32(stored & mask) ^ sign) - sign)
        out[i] = np.int16(min(max(value, least), most) + add)


@numba.njit(nogil=True, cache=True)
def to_hu(words, mask, sign, least, most, add, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """16-bit words to HU, out (pixels,) int16.

    `mask` keeps the stored bits, `sign` is the highest of them where they have a sign, else 0
    (PS3.5 8.1.1). Values are held in least..most, so that `add` does not leave int16.
    """
    for i in range(out.size):
        value = np.int32((np.int32(words[i] & mask) ^ sign) - sign)
        out[i] = np.int16(min(max(value, least), most) + add)
