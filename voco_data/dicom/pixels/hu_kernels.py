"""Compiled kernels that turn common frames into HU: RLE and native 16-bit pixels of slope 1.

The kernels accept only well-formed frames. They return False for a frame with a run that leaves its
segment, or with bytes after the last pixel; decode.py then refuses it with a reason. They never
read or write out of bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from voco_data.dicom.pixels.decode import PixelFormat
from voco_data.dicom.pixels.frame_headers import RLE_HEADER_BYTES
from voco_data.dicom.pixels.modality import ModalityTransform
from voco_data.volumes import AIR_HU

WIDTH = 64
"""Bytes of a vector. One copies most runs, faster than a loop over bytes."""
SLACK_BYTES = 256
"""Bytes after encoded bytes, and after a plane of decoded bytes, that copies may touch."""
RLE_SEGMENTS = 2
"""Segments of 16-bit pixels: the high bytes, then the low bytes (PS3.5 G.2)."""
RLE_NO_RUN = 128
"""A control byte without a run (PS3.5 G.3.2). Lower ones start literal bytes, higher ones a run."""
_INT16 = np.iinfo(np.int16)
# numba compiles these constants and RLE_HEADER_BYTES into its cache, which depends on this file
# alone: after a change in frame_headers.py, edit this file too.


@dataclass(frozen=True, slots=True)
class IntegerRescale:
    """The modality transformation of 16-bit pixels in integers, for the kernels."""

    mask: np.uint16
    """The stored bits."""
    sign: np.int32
    """The highest stored bit if it is a sign (PS3.5 8.1.1), else 0."""
    lowest: np.int32
    highest: np.int32
    """Bounds of stored values whose HU fit int16."""
    intercept: np.int32

    @property
    def arguments(self) -> tuple[np.uint16, np.int32, np.int32, np.int32, np.int32]:
        """The fields, in the order of the kernels' parameters."""
        return self.mask, self.sign, self.lowest, self.highest, self.intercept


@cache
def integer_rescale(pixels: PixelFormat, modality: ModalityTransform) -> IntegerRescale | None:
    """The transformation in integers; None if integers cannot express it.

    None too for padding above air: the kernels do not look at neighbouring pixels.
    """
    intercept = modality.intercept
    if modality.lut is not None or modality.slope != 1.0 or not intercept.is_integer():
        return None
    if pixels.bits_allocated != 16 or pixels.high_bit != pixels.bits_stored - 1:
        return None
    if abs(intercept) > _INT16.max:
        return None
    if modality.padding is not None and modality.padding[1] + intercept > AIR_HU:
        return None
    return IntegerRescale(
        mask=np.uint16((1 << pixels.bits_stored) - 1),
        sign=np.int32(1 << (pixels.bits_stored - 1) if pixels.signed else 0),
        lowest=np.int32(_INT16.min - intercept),
        highest=np.int32(_INT16.max - intercept),
        intercept=np.int32(intercept),
    )


def _copy_run_intrinsic(context, target, at, source, source_at, literal):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Copy source[source_at : source_at + WIDTH] to target[at : at + WIDTH] if `literal`.

    Otherwise repeat its first byte. This is one vector load, one select and one store: a branch on
    the kind of run would be mispredicted.
    """
    signature = types.void(target, types.int64, source, types.int64, types.boolean)

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        to_array, to_at, from_array, from_at, is_literal = values
        to_data = context.make_array(signature.args[0])(context, builder, to_array).data
        from_data = context.make_array(signature.args[2])(context, builder, from_array).data
        vector = ir.VectorType(ir.IntType(8), WIDTH)
        undefined = ir.Constant(vector, ir.Undefined)
        all_first = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        from_pointer = builder.bitcast(builder.gep(from_data, [from_at]), vector.as_pointer())
        run = builder.load(from_pointer)
        run.align = 1
        repeated = builder.shuffle_vector(run, undefined, all_first)
        to_pointer = builder.bitcast(builder.gep(to_data, [to_at]), vector.as_pointer())
        builder.store(builder.select(is_literal, run, repeated), to_pointer).align = 1
        return context.get_dummy_value()

    return signature, generate


_copy_run: Any = intrinsic(_copy_run_intrinsic)


@numba.njit(nogil=True, cache=True)
def _decode_segment(data, at, end, out, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Decode one segment, data[at:end]; False unless it has exactly `size` bytes.

    PS3.5 G.3.2. `data` and `out` reach SLACK_BYTES bytes beyond `end` and `size`.
    """
    n = np.int64(0)
    while n < size:
        if at >= end:
            return False
        control = np.int64(data[at])
        at += 1
        if control == RLE_NO_RUN:
            continue
        literal = control < RLE_NO_RUN
        count = control + 1 if literal else 257 - control
        step = count if literal else 1
        if n + count > size or at + step > end:
            return False
        _copy_run(out, n, data, at, literal)
        if count > WIDTH:
            _copy_run(out, n + WIDTH, data, at + WIDTH if literal else at, literal)
        at += step
        n += count
    return end - at <= 1  # a segment has an even length (PS3.5 G.3.1)


@numba.njit(nogil=True, cache=True)
def _u32(data, at):  # type: ignore[no-untyped-def]  # pragma: no cover
    low = np.int64(data[at]) | np.int64(data[at + 1]) << 8
    return low | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24


@numba.njit(nogil=True, cache=True)
def decode_rle_planes(data, start, length, high, low, pixels):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Decode the RLE frame data[start : start + length] of 16-bit pixels into two byte planes.

    False unless header and segments obey PS3.5 G.3 to G.5, to the last byte. `data` reaches
    SLACK_BYTES bytes beyond the frame, `high` and `low` beyond `pixels`.
    """
    if length < RLE_HEADER_BYTES or start + length + SLACK_BYTES > data.size:
        return False
    if min(high.size, low.size) < pixels + SLACK_BYTES:
        return False
    segments, first, second = _u32(data, start), _u32(data, start + 4), _u32(data, start + 8)
    if segments != RLE_SEGMENTS or first != RLE_HEADER_BYTES or not first < second < length:
        return False
    return _decode_segment(data, start + first, start + second, high, pixels) and _decode_segment(
        data, start + second, start + length, low, pixels
    )


@numba.njit(nogil=True, cache=True)
def planes_to_hu(high, low, mask, sign, lowest, highest, intercept, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Byte planes to HU, out (pixels,) int16; the other parameters are those of IntegerRescale."""
    for i in range(out.size):
        stored = np.uint16(high[i]) << np.uint16(8) | np.uint16(low[i])
        value = np.int32((np.int32(stored & mask) ^ sign) - sign)
        out[i] = np.int16(min(max(value, lowest), highest) + intercept)


@numba.njit(nogil=True, cache=True)
def words_to_hu(words, mask, sign, lowest, highest, intercept, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """16-bit words to HU, out (pixels,) int16; the other parameters are those of IntegerRescale."""
    for i in range(out.size):
        value = np.int32((np.int32(words[i] & mask) ^ sign) - sign)
        out[i] = np.int16(min(max(value, lowest), highest) + intercept)
