"""The fast path from the files of a plain series to HU, decoded directly into canonical order.

Each file is read twice. The headers of all files give the position of every slice. Then each file
is read as a whole into one buffer, decoded to its position, and hashed. If anything is irregular,
from a header to a byte after the pixels, the result is None, and reader.py reads the series with
pydicom and gives the reason if it is refused.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.dicom.binary_format import RLE_LOSSLESS, UNCOMPRESSED
from voco_data.dicom.pixels.decode import MAX_EVEN_PADDING_BYTES
from voco_data.dicom.pixels.hu_kernels import (
    SLACK_BYTES,
    decode_rle_planes,
    integer_rescale,
    planes_to_hu,
    words_to_hu,
)
from voco_data.dicom.series.header_scan import (
    Decoding,
    HeaderScanner,
    ScannedHeader,
    header_scanner,
)
from voco_data.dicom.series.slice_order import (
    SAME_POSITION_MM,
    header_flags,
    order_slices,
    slice_depths,
)
from voco_data.errors import SeriesRefused
from voco_data.volumes import ClippedVoxels, GapPolicy, Volume, content_hasher

MAX_FILE_BYTES = 2**26
"""Largest file; those of one slice are smaller."""
MAX_REUSED_BYTES = 2**28
"""Largest volume whose memory is reused."""
_UNSHARED_REFERENCES = 3
"""References to a buffer that no array uses: of ReusedBuffer, a local variable and getrefcount."""


class ReusedBuffer:
    """Memory for int16 arrays that one volume after the other uses: new pages are slow to map.

    Memory is reused only if no array refers to it.
    """

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.int16)

    def empty(self, shape: tuple[int, ...]) -> npt.NDArray[np.int16]:
        """An uninitialised int16 array of `shape`."""
        size = math.prod(shape)
        if size * self._buffer.itemsize > MAX_REUSED_BYTES:
            return np.empty(shape, np.int16)
        buffer = self._buffer
        # A view refers to the array that owns the memory, so this counts all views.
        if buffer.size < size or sys.getrefcount(buffer) > _UNSHARED_REFERENCES:
            buffer = self._buffer = np.empty(size, np.int16)
        return buffer[:size].reshape(shape)


class SliceDecoder:
    """Reads and decodes files one after the other into buffers that it reuses."""

    def __init__(self) -> None:
        self._file = np.zeros(0, np.uint8)
        self._high = self._low = np.zeros(0, np.uint8)

    def read_file(self, path: Path) -> tuple[npt.NDArray[np.uint8], int] | None:
        """A buffer that begins with the bytes of a file, and their number.

        None if the file is larger than MAX_FILE_BYTES, or grows. The bytes are valid until the next
        call, and at least SLACK_BYTES more follow. Raises OSError.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size > MAX_FILE_BYTES:
                return None
            if self._file.size < size + SLACK_BYTES + 1:
                self._file = np.zeros(size + size // 4 + SLACK_BYTES + 1, np.uint8)
            buffer = self._file.data[: size + 1]  # one more, to notice a file that grows
            n_read = 0
            while n_read <= size and (more := os.readv(descriptor, [buffer[n_read:]])):
                n_read += more
        finally:
            os.close(descriptor)
        return (self._file, size) if n_read == size else None

    def decode(
        self, start: int, length: int, decoding: Decoding, out: npt.NDArray[np.int16]
    ) -> bool:
        """Decode a frame of the file that was read last to HU, into `out` (rows, columns).

        Returns False if the frame is irregular. Raises SeriesRefused if it cannot be decoded.
        """
        pixels = decoding.pixels
        if out.shape != pixels.shape:
            return False
        if not out.flags.c_contiguous:  # the kernels write rows in memory order
            plane = np.empty(out.shape, np.int16)
            is_decoded = self.decode(start, length, decoding, plane)
            out[:] = plane
            return is_decoded
        rescale = integer_rescale(pixels, decoding.modality)
        is_raw = pixels.syntax in UNCOMPRESSED
        if is_raw and length < pixels.frame_bytes:
            return False
        if is_raw and rescale is not None and start % 2 == 0:
            words = self._file[start : start + pixels.frame_bytes].view("<u2")
            words_to_hu(words, *rescale.arguments, out.reshape(-1))
            return True
        if pixels.syntax == RLE_LOSSLESS and rescale is not None:
            self._grow_planes(out.size)
            if not decode_rle_planes(self._file, start, length, self._high, self._low, out.size):
                return False
            planes_to_hu(self._high, self._low, *rescale.arguments, out.reshape(-1))
            return True
        encoded = self._file.data[start : start + length]
        if is_raw:
            encoded = encoded[: pixels.frame_bytes]
        out[:] = decoding.modality.to_hu(pixels.decode(encoded))
        return True

    def _grow_planes(self, pixels: int) -> None:
        if self._high.size < pixels + SLACK_BYTES:
            self._high = np.zeros(pixels + SLACK_BYTES, np.uint8)
            self._low = np.zeros(pixels + SLACK_BYTES, np.uint8)


class _ThreadState(threading.local):
    """The decoder of a thread, and the memory of its volumes."""

    def __init__(self) -> None:
        self.decoder = SliceDecoder()
        self.hu_buffer = ReusedBuffer()


_thread_state = _ThreadState()


def read_fast(files: Sequence[Path], gaps: GapPolicy, min_slices: int) -> Volume | None:
    """The volume of a plain series; None if `read_with_pydicom` must read it.

    The HU are in memory in canonical order, and `hu` is a view in the scanner's order. The memory
    is reused once nothing refers to it.
    """
    scanner = header_scanner()
    try:
        slices = []
        for path in files:
            scanned = scanner.read_header(path)
            if scanned is None:
                return None
            slices.append(scanned)
        return _read_slices(scanner, slices, gaps, min_slices)
    except (OSError, SeriesRefused):  # `read_with_pydicom` raises the first one
        return None


def _read_slices(
    scanner: HeaderScanner, slices: Sequence[ScannedHeader], gaps: GapPolicy, min_slices: int
) -> Volume | None:
    headers = [scanned.header for scanned in slices]
    if (
        not headers
        or np.diff(np.sort(slice_depths(headers))).min(initial=np.inf) < SAME_POSITION_MM
    ):
        return None
    stack = order_slices(headers, range(len(headers)), gaps, min_slices)
    if stack.positions.resampled:
        return None
    canonical = stack.geometry.nearest_canonical()
    canonical_hu = _thread_state.hu_buffer.empty(canonical.shape)
    native_hu = canonical.to_native(canonical_hu)
    # If canonical planes are slices, they are decoded and hashed in the order of memory.
    is_plane_by_plane = canonical.permutation[0] == 0
    is_ascending = not canonical.flips[0]
    hasher, decoder = content_hasher(canonical_hu.shape), _thread_state.decoder
    clipped, has_excess_bytes = ClippedVoxels(), False
    for index, number in sorted(enumerate(stack.order), reverse=not is_ascending):
        scanned = slices[number]
        path = scanned.header.path
        file = decoder.read_file(path)
        rescanned = None if file is None else scanner.scan_slice(*file, path)
        # The file may have changed since its header was read.
        if (
            rescanned is None
            or rescanned.scanned.key != scanned.key
            or rescanned.scanned.header != scanned.header
        ):
            return None
        decoding = scanned.shared.decoding
        if decoding is None or not decoder.decode(
            rescanned.start, rescanned.length, decoding, native_hu[index]
        ):
            return None
        if decoding.pixels.syntax in UNCOMPRESSED:
            expected = decoding.pixels.frame_bytes + MAX_EVEN_PADDING_BYTES
            has_excess_bytes |= rescanned.length > expected
        if decoding.may_clip:
            clipped.add(native_hu[index])
        if is_plane_by_plane:  # hashed while in the cache of the processor
            plane = index if is_ascending else len(canonical_hu) - 1 - index
            hasher.update(canonical_hu[plane].data)
    return Volume(
        hu=native_hu,
        geometry=stack.geometry,
        instance_numbers=tuple(headers[n].instance_number for n in stack.order),
        transfer_syntax="+".join(sorted({h.transfer_syntax for h in headers})),
        flags=(
            *header_flags(headers),
            *(["excess_pixel_bytes"] if has_excess_bytes else []),
            *clipped.flags(),
        ),
        precomputed_digest=hasher.hexdigest() if is_plane_by_plane else "",
    )
