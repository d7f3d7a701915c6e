"""Headers of plain files without parsing each: slices of one series differ in six values only.

The element scan finds the elements whose values are read. All but six of them have the same bytes
in every slice of a series. So pydicom parses them once, from a small file made of these elements
alone, and the result is cached by their bytes. For any other file the result is None: pydicom must
read it, and header.py gives the reason if it is refused.
"""

from __future__ import annotations

import io
import os
import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from voco_data.dicom.binary_format import (
    IMPLICIT_LITTLE_ENDIAN,
    ITEM,
    PREAMBLE_BYTES,
    PREFIX,
    SEQUENCE_DELIMITER,
    UNCOMPRESSED,
    UNDEFINED_LENGTH,
)
from voco_data.dicom.deflated import DEFLATED_UID
from voco_data.dicom.header import Header, parse_header
from voco_data.dicom.pixels.decode import PixelFormat
from voco_data.dicom.pixels.modality import ModalityTransform, parse_modality_transforms
from voco_data.dicom.series.element_scan import (
    ABSENT,
    ACQUISITION_DATETIME_ROW,
    ACQUISITION_TIME_ROW,
    COMPLETE,
    CONTENT_TIME_ROW,
    ELEMENT_COUNT,
    ELEMENT_START,
    NUMBER_ROW,
    PIXELS_LENGTH,
    PIXELS_START,
    POSITION_ROW,
    TRIGGER_TIME_ROW,
    TRUNCATED,
    VALUE_END,
    VALUE_START,
    ElementScanner,
)
from voco_data.dicom.stack_key import (
    DIRECTORY_CLASS,
    SliceTimes,
    StackKey,
    make_stack_key,
    time_text,
)
from voco_data.errors import SeriesRefused
from voco_data.limits import MAX_COORDINATE_MM
from voco_data.volumes import Triple

FIRST_READ_BYTES = 4096
"""Most headers are shorter."""
READ_GROWTH = 16
"""Factor from the size of one read of a header to that of the next."""
MAX_HEADER_BYTES = 2**22
MAX_SHARED_HEADERS = 4096
"""Cached headers; a series needs one, or a few."""

_DECIMAL = rb" *([+-]?\d{1,12}(?:\.\d{0,12})?(?:[eE][+-]?\d{1,2})?) *"
_POSITION = re.compile(rb"\\".join([_DECIMAL] * 3))
"""Three decimal strings (PS3.5 6.2, DS)."""
_NUMBER = re.compile(rb" *([+-]?\d{1,9}) *")
"""An integer string (PS3.5 6.2, IS)."""


def _tag_bytes(tag: int) -> bytes:
    """A tag in little endian: the group, then the element."""
    return (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")


_TRAILING_PADDING = _tag_bytes(0xFFFCFFFC) + b"OB"
"""Data Set Trailing Padding (PS3.10 7.2), in explicit VR."""
_PADDING_HEAD_BYTES = 12
_ITEM = _tag_bytes(ITEM)
_ITEM_HEAD_BYTES = 8
_SEQUENCE_END = _tag_bytes(SEQUENCE_DELIMITER) + bytes(4)
"""Delimiter of encapsulated pixel data, with its length, 0 (PS3.5 A.4)."""
_OFFSET_BYTES = 4
"""Size of the offset table of one frame."""
_EXCLUDED_UIDS = (DEFLATED_UID, DIRECTORY_CLASS)
"""pydicom must read a file whose first bytes contain one of these, in any element."""
_FILE_START = bytes(PREAMBLE_BYTES) + PREFIX
_TIME_ROWS = (ACQUISITION_TIME_ROW, CONTENT_TIME_ROW, ACQUISITION_DATETIME_ROW, TRIGGER_TIME_ROW)
"""In the order of the fields of SliceTimes."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How stored pixels become HU."""

    pixels: PixelFormat
    modality: ModalityTransform
    may_clip: bool
    """Whether HU may be at an end of int16, as those of 12 bits never are."""


@dataclass(frozen=True, slots=True)
class SharedHeader:
    """What slices with equal keys share."""

    header: Header
    """The header of the first of them."""
    stack_key: StackKey
    decoding: Decoding | None
    """None if pydicom must read the pixels."""


@dataclass(frozen=True, slots=True)
class ScannedHeader:
    """The header of one file with one slice."""

    header: Header
    shared: SharedHeader
    key: bytes
    """`ElementScanner.key` of the file."""


@dataclass(frozen=True, slots=True)
class ScannedSlice:
    """The header of one slice and the bytes of its frame in the file."""

    scanned: ScannedHeader
    start: int
    length: int


class HeaderScanner:
    """Scans files into buffers that it reuses: one thread at a time may use a scanner."""

    def __init__(self) -> None:
        self._elements = ElementScanner()
        self._first_read = np.zeros(FIRST_READ_BYTES, np.uint8)
        self._last_data: Bytes = self._first_read
        self._shared_headers: dict[bytes, SharedHeader] = {}

    def read_header(self, path: Path) -> ScannedHeader | None:
        """The header of a file; None if pydicom must read it. Raises OSError.

        The file is not read to its end, so bytes after the header are not checked.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data, size = self._first_read, FIRST_READ_BYTES
            while True:
                n_read = os.preadv(descriptor, [data.data[:size]], 0)
                result = self._elements.scan(data, n_read)
                if result != TRUNCATED or n_read < size or size >= MAX_HEADER_BYTES:
                    break
                size *= READ_GROWTH
                data = np.zeros(size, np.uint8)
        finally:
            os.close(descriptor)
        self._last_data = data
        return self._parse(data, path) if result == COMPLETE else None

    def last_times(self) -> SliceTimes:
        """The times of the file whose header `read_header` returned last.

        They vary from slice to slice, and only the index needs them.
        """
        times = []
        summary, elements = self._elements.summary.tolist(), self._elements.elements
        for index in _TIME_ROWS:
            row = summary[index]
            times.append("" if row == ABSENT else time_text(_value(self._last_data, elements[row])))
        return SliceTimes(*times)

    def scan_slice(self, data: Bytes, size: int, path: Path) -> ScannedSlice | None:
        """The header and the single frame of a whole file, data[:size].

        None if the file is irregular anywhere, up to its last byte.
        """
        if self._elements.scan(data, size) != COMPLETE:
            return None
        scanned = self._parse(data, path)
        if scanned is None or scanned.shared.decoding is None:
            return None
        start = int(self._elements.summary[PIXELS_START])
        length = int(self._elements.summary[PIXELS_LENGTH])
        syntax = scanned.header.transfer_syntax
        if syntax in UNCOMPRESSED:
            frame = (start, length) if length != UNDEFINED_LENGTH else None
            end = start + length
        else:
            frame = _single_fragment(data, start, size) if length == UNDEFINED_LENGTH else None
            end = 0 if frame is None else sum(frame) + len(_SEQUENCE_END)
        if frame is None:
            return None
        is_explicit = syntax != IMPLICIT_LITTLE_ENDIAN
        if end != size and not (is_explicit and _is_padding(data, end, size)):
            return None
        return ScannedSlice(scanned, *frame)

    def _parse(self, data: Bytes, path: Path) -> ScannedHeader | None:
        """The header of `data`, which was scanned last; None if pydicom must read it."""
        key = self._elements.key
        summary, elements = self._elements.summary.tolist(), self._elements.elements
        position_row, number_row = summary[POSITION_ROW], summary[NUMBER_ROW]
        if position_row == ABSENT:
            return None
        position = _parse_position(_value(data, elements[position_row]))
        number = -1 if number_row == ABSENT else _parse_number(_value(data, elements[number_row]))
        if position is None or number is None:
            return None
        first_bytes = data[:FIRST_READ_BYTES].tobytes()
        if any(uid in first_bytes for uid in _EXCLUDED_UIDS):
            return None
        shared_header = self._shared_headers.get(key)
        if shared_header is None:
            encoded = [
                data[row[ELEMENT_START] : row[VALUE_END]].tobytes()
                for row in elements[: summary[ELEMENT_COUNT]].tolist()
            ]
            shared_header = _read_shared_header(b"".join([_FILE_START, *encoded]), path)
            if (
                shared_header is None
                or shared_header.header.position_mm != position
                or shared_header.header.instance_number != number
            ):
                return None
            if len(self._shared_headers) >= MAX_SHARED_HEADERS:
                self._shared_headers.clear()
            self._shared_headers[key] = shared_header
        header = replace(
            shared_header.header, path=path, instance_number=number, position_mm=position
        )
        return ScannedHeader(header, shared_header, key)


_thread_state = threading.local()


def header_scanner() -> HeaderScanner:
    """The scanner of this thread."""
    if not hasattr(_thread_state, "scanner"):
        _thread_state.scanner = HeaderScanner()
    scanner: HeaderScanner = _thread_state.scanner
    return scanner


def _read_shared_header(file: bytes, path: Path) -> SharedHeader | None:
    """Parse the elements of a file with pydicom; None if header.py refuses them."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(file), force=True)
        header = parse_header(dataset, path)
    except SeriesRefused:
        return None
    except Exception:  # noqa: BLE001  header.py reads the file again and gives the reason
        return None
    if header.frames != 1:
        return None
    return SharedHeader(header, make_stack_key(dataset), _read_decoding(dataset, header))


def _read_decoding(dataset: Dataset, header: Header) -> Decoding | None:
    try:
        (modality,) = parse_modality_transforms(dataset, 1)
        pixels = PixelFormat.from_dataset(dataset, (header.rows, header.columns))
        return Decoding(pixels, modality, modality.reaches_ends(*pixels.stored_range))
    except SeriesRefused:
        return None


def _value(data: Bytes, element: npt.NDArray[np.int64]) -> bytes:
    return data[element[VALUE_START] : element[VALUE_END]].tobytes()


def _parse_position(text: bytes) -> Triple | None:
    match = _POSITION.fullmatch(text)
    if match is None:
        return None
    x, y, z = (float(part) for part in match.groups())
    return (x, y, z) if max(abs(x), abs(y), abs(z)) <= MAX_COORDINATE_MM else None


def _parse_number(text: bytes) -> int | None:
    match = _NUMBER.fullmatch(text)
    return None if match is None else int(match[1])


def _single_fragment(data: Bytes, at: int, size: int) -> tuple[int, int] | None:
    """Start and length of the fragment after the offset table; None unless it is the only one.

    PS3.5 A.4. `at` is the offset of the encapsulated pixel data.
    """
    offset_table = _item_value(data, at, size)
    if offset_table is None or offset_table[1] not in (0, _OFFSET_BYTES):
        return None
    fragment = _item_value(data, sum(offset_table), size)
    if fragment is None:
        return None
    end = sum(fragment)
    is_last = data[end : end + len(_SEQUENCE_END)].tobytes() == _SEQUENCE_END
    return fragment if is_last else None


def _item_value(data: Bytes, at: int, size: int) -> tuple[int, int] | None:
    """Start and length of the value of the item at `at`; None if no delimiter fits after it."""
    start = at + _ITEM_HEAD_BYTES
    head = data[at:start].tobytes()
    if start > size or head[:4] != _ITEM:
        return None
    length = int.from_bytes(head[4:], "little")
    return (start, length) if start + length + len(_SEQUENCE_END) <= size else None


def _is_padding(data: Bytes, at: int, size: int) -> bool:
    """Whether data[at:size] is exactly one element, Data Set Trailing Padding."""
    value_start = at + _PADDING_HEAD_BYTES
    head = data[at : min(size, value_start)].tobytes()
    return (
        len(head) == _PADDING_HEAD_BYTES
        and head.startswith(_TRAILING_PADDING)
        and value_start + int.from_bytes(head[8:], "little") == size
    )
