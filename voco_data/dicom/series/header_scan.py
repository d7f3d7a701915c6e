"""Headers of plain files without parsing each: slices of one series differ in position and number.

The element scan finds the elements that we read. All but two of them have the same bytes in every
slice of a series, so pydicom reads them once, from a small file made of these elements alone, and
the result is kept under their bytes. Any other file is left to pydicom: the result here is None,
and every refusal is made by header.py.
"""

from __future__ import annotations

import io
import math
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
from voco_data.dicom.header import Header, parse_header
from voco_data.dicom.input_limits import DEFLATED
from voco_data.dicom.pixels.decode import PixelFormat
from voco_data.dicom.pixels.modality import Modality, parse_modalities
from voco_data.dicom.series.element_scan import (
    ABSENT,
    COMPLETE,
    ELEMENT_COUNT,
    ELEMENT_START,
    NUMBER_ROW,
    PIXELS_LENGTH,
    PIXELS_START,
    POSITION_ROW,
    TRUNCATED,
    VALUE_END,
    VALUE_START,
    ElementScanner,
)
from voco_data.dicom.stack_key import DIRECTORY_CLASS, StackKey, make_stack_key
from voco_data.errors import SeriesRefused
from voco_data.volumes import Triple

FIRST_READ_BYTES = 4096
"""Most headers end before."""
READ_GROWTH = 16
"""Each further read of a header is so many times longer."""
MAX_HEADER_BYTES = 2**22
MAX_KINDS = 4096
"""Kinds of headers that are kept; a series has one, or a few."""

_DECIMAL = rb" *([+-]?\d{1,12}(?:\.\d{0,12})?(?:[eE][+-]?\d{1,2})?) *"
_POSITION = re.compile(rb"\\".join([_DECIMAL] * 3))
"""Three decimal strings (PS3.5 6.2, DS), as scanners write them."""
_NUMBER = re.compile(rb" *([+-]?\d{1,9}) *")
"""An integer string (PS3.5 6.2, IS)."""


def _tag_bytes(tag: int) -> bytes:
    """A tag in little endian: group, then element."""
    return (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")


_TRAILING_PADDING = _tag_bytes(0xFFFCFFFC) + b"OB"
"""Data Set Trailing Padding (PS3.10 7.2), in explicit VR."""
_PADDING_HEAD_BYTES = 12
_ITEM = _tag_bytes(ITEM)
_ITEM_HEAD_BYTES = 8
_SEQUENCE_END = _tag_bytes(SEQUENCE_DELIMITER) + bytes(4)
"""Delimiter of encapsulated pixel data, with its length 0 (PS3.5 A.4)."""
_OFFSET_BYTES = 4
"""Size of an offset table of one frame."""
_EXCLUDED_UIDS = (DEFLATED, DIRECTORY_CLASS)
"""A file whose first bytes contain one of these, in any element, is left to pydicom."""
_FILE_START = bytes(PREAMBLE_BYTES) + PREFIX

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How stored pixels become HU."""

    pixels: PixelFormat
    modality: Modality


@dataclass(frozen=True, slots=True)
class HeaderKind:
    """What slices with equal keys share."""

    header: Header
    """Of the first of them."""
    stack: StackKey
    decoding: Decoding | None
    """None where pydicom must read the pixels."""


@dataclass(frozen=True, slots=True)
class ScannedHeader:
    """The header of one file with one slice."""

    header: Header
    kind: HeaderKind
    key: bytes
    """ElementScanner.key of the file."""


@dataclass(frozen=True, slots=True)
class ScannedSlice:
    """The header of one slice and the bytes of its frame in the file."""

    scanned: ScannedHeader
    start: int
    length: int


class HeaderScanner:
    """Scans files into buffers that are used again; each thread has its own."""

    def __init__(self) -> None:
        self._elements = ElementScanner()
        self._first_read = np.zeros(FIRST_READ_BYTES, np.uint8)
        self._kinds: dict[bytes, HeaderKind] = {}

    def read_header(self, path: Path) -> ScannedHeader | None:
        """The header of a file, whatever follows it; None if pydicom should read it.

        Nothing is read of the pixels beyond the first kilobytes. Raises OSError.
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
        return self._parse(data, path) if result == COMPLETE else None

    def scan_slice(self, data: Bytes, size: int, path: Path) -> ScannedSlice | None:
        """The header and the one encoded frame of a whole file, data[:size].

        None if anything about the file, up to its last byte, is irregular.
        """
        if self._elements.scan(data, size) != COMPLETE:
            return None
        scanned = self._parse(data, path)
        if scanned is None or scanned.kind.decoding is None:
            return None
        start = int(self._elements.summary[PIXELS_START])
        length = int(self._elements.summary[PIXELS_LENGTH])
        syntax = scanned.header.transfer_syntax
        if syntax in UNCOMPRESSED:
            frame = (start, length) if length != UNDEFINED_LENGTH else None
            end = start + length
        else:
            frame = _only_fragment(data, start, size) if length == UNDEFINED_LENGTH else None
            end = 0 if frame is None else sum(frame) + len(_SEQUENCE_END)
        if frame is None:
            return None
        is_explicit = syntax != IMPLICIT_LITTLE_ENDIAN
        if end != size and not (is_explicit and _is_padding(data, end, size)):
            return None
        return ScannedSlice(scanned, *frame)

    def _parse(self, data: Bytes, path: Path) -> ScannedHeader | None:
        """The header that the last scan of `data` found."""
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
        kind = self._kinds.get(key)
        if kind is None:
            encoded = [
                data[row[ELEMENT_START] : row[VALUE_END]].tobytes()
                for row in elements[: summary[ELEMENT_COUNT]].tolist()
            ]
            kind = _read_kind(b"".join([_FILE_START, *encoded]), path)
            if (
                kind is None
                or kind.header.position_mm != position
                or kind.header.instance_number != number
            ):
                return None
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            self._kinds[key] = kind
        header = replace(kind.header, path=path, instance_number=number, position_mm=position)
        return ScannedHeader(header, kind, key)


_of_thread = threading.local()


def header_scanner() -> HeaderScanner:
    """The scanner of this thread."""
    if not hasattr(_of_thread, "scanner"):
        _of_thread.scanner = HeaderScanner()
    scanner: HeaderScanner = _of_thread.scanner
    return scanner


def _read_kind(file: bytes, path: Path) -> HeaderKind | None:
    """What pydicom and header.py read from the elements of a file; None where they refuse."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(file), force=True)
        header = parse_header(dataset, path)
    except SeriesRefused:
        return None
    except Exception:  # noqa: BLE001  pydicom then reads the whole file, and gives the reason
        return None
    if header.frames != 1:
        return None
    return HeaderKind(header, make_stack_key(dataset), _decoding(dataset, header))


def _decoding(dataset: Dataset, header: Header) -> Decoding | None:
    try:
        (modality,) = parse_modalities(dataset, 1)
        return Decoding(PixelFormat.of(dataset, (header.rows, header.columns)), modality)
    except SeriesRefused:
        return None


def _value(data: Bytes, element: npt.NDArray[np.int64]) -> bytes:
    return data[element[VALUE_START] : element[VALUE_END]].tobytes()


def _parse_position(text: bytes) -> Triple | None:
    match = _POSITION.fullmatch(text)
    if match is None:
        return None
    x, y, z = (float(part) for part in match.groups())
    return (x, y, z) if math.isfinite(x + y + z) else None


def _parse_number(text: bytes) -> int | None:
    match = _NUMBER.fullmatch(text)
    return None if match is None else int(match[1])


def _only_fragment(data: Bytes, at: int, size: int) -> tuple[int, int] | None:
    """Start and length of the fragment, if there is one (PS3.5 A.4)."""
    offset_table = _item(data, at, size)
    if offset_table is None or offset_table[1] not in (0, _OFFSET_BYTES):
        return None
    fragment = _item(data, sum(offset_table), size)
    if fragment is None:
        return None
    end = sum(fragment)
    is_last = data[end : end + len(_SEQUENCE_END)].tobytes() == _SEQUENCE_END
    return fragment if is_last else None


def _item(data: Bytes, at: int, size: int) -> tuple[int, int] | None:
    """Start and length of the value of the item at `at`, if a delimiter fits behind it."""
    start = at + _ITEM_HEAD_BYTES
    head = data[at:start].tobytes()
    if start > size or head[:4] != _ITEM:
        return None
    length = int.from_bytes(head[4:], "little")
    return (start, length) if start + length + len(_SEQUENCE_END) <= size else None


def _is_padding(data: Bytes, at: int, size: int) -> bool:
    """Whether Data Set Trailing Padding, and nothing else, stands in data[at:size]."""
    value_start = at + _PADDING_HEAD_BYTES
    head = data[at : min(size, value_start)].tobytes()
    return (
        len(head) == _PADDING_HEAD_BYTES
        and head.startswith(_TRAILING_PADDING)
        and value_start + int.from_bytes(head[8:], "little") == size
    )
