"""The short way from the files of a plain series to HU: straight into canonical order.

Two looks at each file. The first reads its header; when all are known, so is the place of every
slice. The second reads the file into one buffer, decodes it into its place, and hashes it there.
Where anything is unusual, from a header to a byte behind the pixels, the answer is None, and
`series.py` reads the series its own way: every refusal is made there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.dicom.pixels.decode import RLE, UNCOMPRESSED, PixelFormat
from voco_data.dicom.pixels.modality import Modality
from voco_data.dicom.pixels.rle import SLACK, planes_to_hu, rle_planes, to_hu
from voco_data.dicom.series.header_scan import (
    Decoding,
    HeaderScanner,
    ScannedHeader,
    header_scanner,
)
from voco_data.dicom.series.slice_order import SAME_POSITION_MM, depths_of, header_flags, stack_of
from voco_data.errors import SeriesRefused
from voco_data.volumes.buffers import reused_buffer
from voco_data.volumes.slice_spacing import GapPolicy
from voco_data.volumes.volume import AIR_HU, Volume, content_state

LARGEST_FILE = 2**26
"""Bytes. Files of one slice are smaller."""
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True)
class IntegerRescale:
    """16-bit pixels to HU in integers: what the kernels take."""

    mask: np.uint16
    sign: np.int32
    least: np.int32
    most: np.int32
    add: np.int32

    @property
    def arguments(self) -> tuple[np.uint16, np.int32, np.int32, np.int32, np.int32]:
        """As the kernels take them."""
        return self.mask, self.sign, self.least, self.most, self.add


@cache
def integer_rescale(pixels: PixelFormat, modality: Modality) -> IntegerRescale | None:
    """The integers of a format and a transformation; None where it takes more than these.

    Padding needs its surroundings, unless what it marks lies at air or below.
    """
    add = modality.intercept
    if modality.table is not None or modality.slope != 1.0 or not add.is_integer():
        return None
    if pixels.allocated != 16 or pixels.high != pixels.stored - 1 or abs(add) > _INT16.max:
        return None
    if modality.padding is not None and modality.padding[1] + add > AIR_HU:
        return None
    return IntegerRescale(
        np.uint16((1 << pixels.stored) - 1),
        np.int32(1 << (pixels.stored - 1) if pixels.signed else 0),
        np.int32(_INT16.min - add),
        np.int32(_INT16.max - add),
        np.int32(add),
    )


class Decoder:
    """Reads and decodes one file after the other; a thread has one, with its buffers."""

    def __init__(self) -> None:
        self._file = np.zeros(0, np.uint8)
        self._high = self._low = np.zeros(0, np.uint8)

    def read(self, path: Path) -> tuple[npt.NDArray[np.uint8], int] | None:
        """The bytes of a file, with room behind them, and their number; None if it is too large.

        They stay until the next call. Raises OSError.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size > LARGEST_FILE:
                return None
            if self._file.size < size + SLACK + 1:
                self._file = np.zeros(size + size // 4 + SLACK + 1, np.uint8)
            room = self._file.data[: size + 1]
            have = 0
            while have <= size and (more := os.readv(descriptor, [room[have:]])):
                have += more
        finally:
            os.close(descriptor)
        return (self._file, size) if have == size else None

    def decode(self, start: int, length: int, how: Decoding, out: npt.NDArray[np.int16]) -> bool:
        """Bring a frame of the file that was read to HU, into `out` (rows, columns).

        False where it is not plainly right. Raises SeriesRefused where it is wrong.
        """
        pixels = how.pixels
        if out.shape != pixels.shape:
            return False
        if not out.flags.c_contiguous:  # the kernels write rows in memory order
            plane = np.empty(out.shape, np.int16)
            done = self.decode(start, length, how, plane)
            out[:] = plane
            return done
        integers = integer_rescale(pixels, how.modality)
        raw = pixels.syntax in UNCOMPRESSED
        if raw and not 0 <= length - pixels.frame_bytes <= 1:
            return False
        if raw and integers is not None and start % 2 == 0:
            words = self._file[start : start + pixels.frame_bytes].view("<u2")
            to_hu(words, *integers.arguments, out.reshape(-1))
            return True
        if pixels.syntax == RLE and integers is not None:
            self._make_planes(out.size)
            if not rle_planes(self._file, start, length, self._high, self._low, out.size):
                return False
            planes_to_hu(self._high, self._low, *integers.arguments, out.reshape(-1))
            return True
        encoded = self._file.data[start : start + length]
        if raw:
            encoded = encoded[: pixels.frame_bytes]
        out[:] = how.modality.to_hu(pixels.values(encoded))
        return True

    def _make_planes(self, pixels: int) -> None:
        if self._high.size < pixels + SLACK:
            self._high = np.zeros(pixels + SLACK, np.uint8)
            self._low = np.zeros(pixels + SLACK, np.uint8)


_of_thread = threading.local()


def _decoder() -> Decoder:
    if not hasattr(_of_thread, "decoder"):
        _of_thread.decoder = Decoder()
    found: Decoder = _of_thread.decoder
    return found


def read_fast(files: Sequence[Path], gaps: GapPolicy, min_slices: int) -> Volume | None:
    """The volume of a plain series; None where the thorough reader should look.

    Its HU lie in the canonical order in memory, and `hu` is a view in the scanner's order.
    """
    reader = header_scanner()
    try:
        slices = []
        for path in files:
            item = reader.header(path)
            if item is None:
                return None
            slices.append(item)
        return _fill(reader, slices, gaps, min_slices)
    except (OSError, SeriesRefused):  # said again, in its order, by the thorough reader
        return None


def _fill(
    reader: HeaderScanner, slices: Sequence[ScannedHeader], gaps: GapPolicy, min_slices: int
) -> Volume | None:
    headers = [item.header for item in slices]
    if not headers or np.diff(np.sort(depths_of(headers))).min(initial=np.inf) < SAME_POSITION_MM:
        return None
    stack = stack_of(headers, range(len(headers)), gaps, min_slices)
    if stack.even.resampled:
        return None
    where = stack.geometry.turned()
    canonical = reused_buffer().take(where.shape)
    native = where.back(canonical)
    along, upward = where.permutation[0] == 0, not where.flips[0]
    state, decoder = content_state(canonical.shape), _decoder()
    for index, number in sorted(enumerate(stack.order), reverse=not upward):
        known = slices[number]
        read = decoder.read(known.header.path)
        found = None if read is None else reader.slice(*read, known.header.path)
        if found is None or found[0].key != known.key or found[0].header != known.header:
            return None
        _, start, length = found
        how = known.kind.decoding
        if how is None or not decoder.decode(start, length, how, native[index]):
            return None
        if along:  # hashed plane by plane in the order of memory, while it is in the cache
            state.update(canonical[index if upward else len(canonical) - 1 - index].data)
    return Volume(
        hu=native,
        geometry=stack.geometry,
        instance_numbers=tuple(headers[n].instance_number for n in stack.order),
        transfer_syntax="+".join(sorted({h.transfer_syntax for h in headers})),
        flags=tuple(header_flags(headers)),
        hashed=state.hexdigest() if along else "",
    )
