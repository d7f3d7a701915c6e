"""Deflated data sets (PS3.5 A.5): inflated as far as they are read, and no further.

pydicom inflates the whole data set before it parses one element. A file of a megabyte can hold a
gigabyte, so here the parser reads a stream that inflates in steps. The header is limited, and what
follows it by the size of the pixels that it states.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from typing import BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from voco_data.dicom.binary_format import (
    DEFLATED_LITTLE_ENDIAN,
    LENGTH_FIELD_BYTES,
    META_GROUP,
    META_START,
    has_prefix,
)
from voco_data.dicom.input_limits import MAX_READS, ReadLimitError
from voco_data.dicom.values import DatasetValues
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

MAX_HEADER_BYTES = 2**26
"""Largest inflated header: that of a multi-frame object has about a kilobyte for each frame."""
MAX_DATA_SET_BYTES = 2**29
"""Largest inflated data set, of one slice or one multi-frame object."""
TRAILER_BYTES = 2**20
"""Largest part of a data set beside header and pixels: padding and signatures."""

DEFLATED_UID = DEFLATED_LITTLE_ENDIAN.encode()
"""Bytes of the transfer syntax UID in a file."""
_FIRST_READ_BYTES = 4096
_MAX_META_BYTES = 65_536
"""Largest file meta information that is searched for its end."""
_INPUT_STEP_BYTES = 2**16
_OUTPUT_STEP_BYTES = 2**20
_PIXEL_DATA_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, Double Float and Pixel Data: the elements that pydicom counts as pixels."""


class InflatedStream(io.RawIOBase):
    """The inflated bytes of a raw deflate stream, seekable, and inflated when they are read."""

    def __init__(self, compressed: BinaryIO, most_bytes: int) -> None:
        """Read `compressed` from where it stands; `most_bytes` of its contents may be read."""
        super().__init__()
        self._compressed = compressed
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._input = b""
        self._inflated = bytearray()
        self._at = 0
        self._reads_left = MAX_READS
        self.most_bytes = most_bytes
        """May be raised between reads."""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Offset of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an offset from the start or from here; nothing is inflated."""
        if whence == os.SEEK_END:
            raise io.UnsupportedOperation("the end is not known before all is inflated")
        self._at = max(0, offset + (self._at if whence == os.SEEK_CUR else 0))
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes; without one, all.

        Raises SeriesRefused(UNREADABLE) beyond `most_bytes` and for a damaged or torn stream, and
        ReadLimitError.
        """
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ReadLimitError(f"more than {MAX_READS} reads")
        end = None if size is None or size < 0 else self._at + size
        while (end is None or len(self._inflated) < end) and not self._inflate.eof:
            self._inflate_step()
        data = bytes(self._inflated[self._at : end])
        self._at += len(data)
        return data

    def _inflate_step(self) -> None:
        if not self._input:
            self._input = self._compressed.read(_INPUT_STEP_BYTES)
        try:
            # Without input it may still hold some output.
            inflated = self._inflate.decompress(self._input, _OUTPUT_STEP_BYTES)
        except zlib.error as error:
            raise SeriesRefused(Reason.UNREADABLE, "the deflated data set is damaged") from error
        is_torn = not self._input and not inflated and not self._inflate.eof
        self._input = self._inflate.unconsumed_tail
        if is_torn:
            raise SeriesRefused(Reason.UNREADABLE, "the deflated data set is torn")
        self._inflated += inflated
        if len(self._inflated) > self.most_bytes:
            raise SeriesRefused(Reason.UNREADABLE, f"inflates to more than {self.most_bytes} bytes")


def read_deflated(
    file: io.BufferedReader, *, pixels: bool, most_bytes: int | None = None
) -> Dataset | None:
    """Parse a file with a deflated data set, with or without its pixels; None for another file.

    `file` stands at its start, and is set back if it is another file. `most_bytes` limits the
    inflated data set further. Raises SeriesRefused(UNREADABLE), and what pydicom raises.
    """
    if DEFLATED_UID not in file.peek(_FIRST_READ_BYTES):
        return None
    start = file.read(_MAX_META_BYTES)
    file.seek(0)
    end = _meta_end(start)
    meta = pydicom.dcmread(io.BytesIO(start[:end]), force=True)
    if meta.file_meta.get("TransferSyntaxUID") != DEFLATED_LITTLE_ENDIAN:
        return None
    file.seek(end)
    most_bytes = MAX_DATA_SET_BYTES if most_bytes is None else min(most_bytes, MAX_DATA_SET_BYTES)
    stream = InflatedStream(file, min(most_bytes, MAX_HEADER_BYTES))
    source = cast(BinaryIO, stream)
    dataset = read_dataset(source, False, True, stop_when=_is_pixel_data)
    encoding = dataset.original_character_set
    if pixels:
        stream.most_bytes = min(most_bytes, stream.tell() + _pixel_bytes(dataset) + TRAILER_BYTES)
        dataset.update(read_dataset(source, False, True))
    whole = FileDataset(io.BytesIO(), dataset, meta.preamble, meta.file_meta, False, True)
    whole.set_original_encoding(False, True, encoding)
    return whole


def _is_pixel_data(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_DATA_TAGS


def _pixel_bytes(dataset: Dataset) -> int:
    """Bytes of the pixels that the header states, which are not compressed (PS3.5 8.1.1)."""
    values = DatasetValues(dataset)
    names = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")
    numbers = [values.integer(name, 1) for name in names]
    return math.ceil(math.prod(max(number, 0) for number in numbers) / 8)


def _meta_end(start: bytes) -> int:
    """Offset of the deflated bytes, which follow the elements of group 0002 (PS3.10 7.1)."""
    at = META_START if has_prefix(start) else 0
    group = META_GROUP.to_bytes(2, "little")
    while start[at : at + 2] == group:
        if LENGTH_FIELD_BYTES.get(start[at + 4 : at + 6], 2) == 4:
            at += 12 + int.from_bytes(start[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(start[at + 6 : at + 8], "little")
    if at + 8 > len(start):
        raise SeriesRefused(Reason.UNREADABLE, "deflated, and its file meta does not end")
    return at
