"""Headers of plain files without parsing each: slices of one series differ in position and number.

The walk finds where the elements lie. All but two of those that we take are the same bytes in
every slice of a series, so pydicom reads them once, from a small file made of these elements
alone, and what came of it is remembered by their bytes. Whatever is odd is left to pydicom: the
answer here is None, and every refusal is pydicom's and header.py's.
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

from voco_data.dicom.deflated import DEFLATED
from voco_data.dicom.header import Header, Triple, parse_header
from voco_data.dicom.pixels.decode import UNCOMPRESSED, PixelFormat
from voco_data.dicom.pixels.modality import Modality, parse_modalities
from voco_data.dicom.series.element_scan import SHORT, UNDEFINED, WALKED, ElementScanner
from voco_data.dicom.stack_key import DIRECTORY_CLASS, StackKey, stack_key
from voco_data.errors import SeriesRefused

FIRST_READ = 4096
"""Bytes; most headers end before."""
LONGEST_HEADER = 2**22
REMEMBERED = 4096
"""Kinds of headers; a series has one, or a few."""

_DECIMAL = rb" *([+-]?\d{1,12}(?:\.\d{0,12})?(?:[eE][+-]?\d{1,2})?) *"
_POSITION = re.compile(rb"\\".join([_DECIMAL] * 3))
"""Three decimal strings (PS3.5 6.2, DS), as scanners write them."""
_NUMBER = re.compile(rb" *([+-]?\d{1,9}) *")
"""An integer string (IS)."""
_PADDING = bytes.fromhex("fcfffcff") + b"OB"
"""Data Set Trailing Padding (PS3.10 7.2), in explicit VR."""
_ITEM, _DELIMITER = bytes.fromhex("feff00e0"), bytes.fromhex("feffdde000000000")
_SUSPECT = (DEFLATED, DIRECTORY_CLASS)
"""Files that name these are looked at more closely, wherever they name them."""
_PREAMBLE = bytes(128) + b"DICM"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How stored pixels become HU."""

    pixels: PixelFormat
    modality: Modality


@dataclass(frozen=True, slots=True)
class Kind:
    """What all slices share whose taken elements are the same bytes."""

    header: Header
    """Of the first of them."""
    stack: StackKey
    decoding: Decoding | None
    """None where the pixels are for the thorough reader."""


@dataclass(frozen=True, slots=True)
class ScannedHeader:
    """One file of one slice, walked."""

    header: Header
    kind: Kind
    key: bytes
    """The shared elements, as they stand in the file."""


class HeaderScanner:
    """Walks files; a thread has one, whose buffers are used again."""

    def __init__(self) -> None:
        self._walk = ElementScanner()
        self._start = np.zeros(FIRST_READ, np.uint8)
        self._kinds: dict[bytes, Kind] = {}

    def header(self, path: Path) -> ScannedHeader | None:
        """The header of a file, whatever follows it; None if pydicom should read it.

        Nothing is read of the pixels beyond the first kilobytes. Raises OSError.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data, size = self._start, FIRST_READ
            while True:
                have = os.preadv(descriptor, [data.data[:size]], 0)
                found = self._walk.go(data, have)
                if found != SHORT or have < size or size >= LONGEST_HEADER:
                    break
                size *= 16
                data = np.zeros(size, np.uint8)
        finally:
            os.close(descriptor)
        return self.parse(data, path) if found == WALKED else None

    def slice(self, data: Bytes, size: int, path: Path) -> tuple[ScannedHeader, int, int] | None:
        """Header, start and length of the one encoded frame of a whole file, data[:size].

        None if the file, to its last byte, is not plainly right.
        """
        if self._walk.go(data, size) != WALKED:
            return None
        quick = self.parse(data, path)
        if quick is None or quick.kind.decoding is None:
            return None
        start, length = (int(n) for n in self._walk.fields[2:4])
        explicit = quick.header.transfer_syntax != "1.2.840.10008.1.2"
        if quick.header.transfer_syntax in UNCOMPRESSED:
            end = start + length
            frame = (start, length) if length != UNDEFINED else None
        else:
            frame = _only_fragment(data, start, size) if length == UNDEFINED else None
            end = 0 if frame is None else sum(frame) + len(_DELIMITER)
        if frame is None or not (end == size or (explicit and _is_padding(data, end, size))):
            return None
        return quick, *frame

    def parse(self, data: Bytes, path: Path) -> ScannedHeader | None:
        """What the last walk over `data` found."""
        key = self._walk.key
        count, _, _, _, at_position, at_number = self._walk.fields[:6].tolist()
        if at_position < 0:
            return None
        places = self._walk.places
        position = _position(_value(data, places[at_position]))
        number = -1 if at_number < 0 else _number(_value(data, places[at_number]))
        start = data[:FIRST_READ].tobytes()
        if position is None or number is None or any(uid in start for uid in _SUSPECT):
            return None
        kind = self._kinds.get(key)
        if kind is None:
            taken = [data[a:b].tobytes() for a, _, b in places[:count].tolist()]
            kind = _kind(b"".join([_PREAMBLE, *taken]), path)
            if kind is None or (kind.header.position_mm, kind.header.instance_number) != (
                position,
                number,
            ):
                return None
            if len(self._kinds) >= REMEMBERED:
                self._kinds.clear()
            self._kinds[key] = kind
        header = replace(kind.header, path=path, instance_number=number, position_mm=position)
        return ScannedHeader(header, kind, key)


_of_thread = threading.local()


def header_scanner() -> HeaderScanner:
    """The reader of this thread."""
    if not hasattr(_of_thread, "reader"):
        _of_thread.reader = HeaderScanner()
    reader: HeaderScanner = _of_thread.reader
    return reader


def _kind(file: bytes, path: Path) -> Kind | None:
    """What the thorough reader makes of the taken elements; None where it refuses."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(file), force=True)
        header = parse_header(dataset, path)
    except SeriesRefused:
        return None
    except Exception:  # noqa: BLE001  the whole file gets the thorough reader, and its reason
        return None
    if header.frames != 1:
        return None
    return Kind(header, stack_key(dataset), _decoding(dataset, header))


def _decoding(dataset: Dataset, header: Header) -> Decoding | None:
    try:
        (modality,) = parse_modalities(dataset, 1)
        return Decoding(PixelFormat.of(dataset, (header.rows, header.columns)), modality)
    except SeriesRefused:
        return None


def _value(data: Bytes, place: npt.NDArray[np.int64]) -> bytes:
    return data[place[1] : place[2]].tobytes()


def _position(text: bytes) -> Triple | None:
    found = _POSITION.fullmatch(text)
    if found is None:
        return None
    x, y, z = (float(part) for part in found.groups())
    return (x, y, z) if math.isfinite(x + y + z) else None


def _number(text: bytes) -> int | None:
    found = _NUMBER.fullmatch(text)
    return None if found is None else int(found[1])


def _only_fragment(data: Bytes, at: int, size: int) -> tuple[int, int] | None:
    """Start and length of the fragment, if there is one (PS3.5 A.4)."""
    table = _item(data, at, size)
    if table is None or table[1] not in (0, 4):  # of an offset table, one frame's at most
        return None
    fragment = _item(data, sum(table), size)
    if fragment is None or data[sum(fragment) :][: len(_DELIMITER)].tobytes() != _DELIMITER:
        return None
    return fragment


def _item(data: Bytes, at: int, size: int) -> tuple[int, int] | None:
    head = data[at : at + 8].tobytes()
    if at + 8 > size or head[:4] != _ITEM:
        return None
    length = int.from_bytes(head[4:], "little")
    return (at + 8, length) if at + 8 + length + len(_DELIMITER) <= size else None


def _is_padding(data: Bytes, at: int, size: int) -> bool:
    """Whether padding, and nothing else, goes on to the file's end."""
    head = data[at : min(size, at + 12)].tobytes()
    return (
        len(head) == 12
        and head[:6] == _PADDING
        and at + 12 + int.from_bytes(head[8:], "little") == size
    )
