"""DICOMDIR: the files that a directory of a CD or DVD lists (PS3.3 Annex F, PS3.10 8.6).

A DICOMDIR is always explicit VR little endian. `referenced_files` reads it as a stream, and
`listed_slices` follows the offsets of its records, so memory does not grow with its size. The first
one skips only the heads of sequences and items, so it visits all their elements.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from voco_data.dicom.binary_format import (
    ITEM_GROUP,
    LENGTH_FIELD_BYTES,
    META_START,
    has_prefix,
)
from voco_data.dicom.stack_key import DIRECTORY_CLASS
from voco_data.errors import InputError

_FIRST_RECORD = (0x0004, 0x1200)
_NEXT_RECORD = (0x0004, 0x1400)
_IN_USE = (0x0004, 0x1410)
_LOWER_RECORD = (0x0004, 0x1420)
_RECORD_TYPE = (0x0004, 0x1430)
_REFERENCED_FILE_ID = (0x0004, 0x1500)
_STUDY_UID = (0x0020, 0x000D)
_SERIES_UID = (0x0020, 0x000E)
_RECORD_TAGS = frozenset(
    {
        _NEXT_RECORD,
        _IN_USE,
        _LOWER_RECORD,
        _RECORD_TYPE,
        _REFERENCED_FILE_ID,
        _STUDY_UID,
        _SERIES_UID,
    }
)
_ITEM_END = (ITEM_GROUP, 0xE00D)
_SEQUENCE_END = (ITEM_GROUP, 0xE0DD)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MIN_RECORD_BYTES = 40
"""A record has at least its head, two offsets, the flag and the type."""

Parts = tuple[str, ...]
"""A ReferencedFileID as parts of a relative path."""


@dataclass(frozen=True, slots=True)
class ListedSlice:
    """A file that a record of type IMAGE refers to, and the UIDs of the records above it."""

    study_uid: str
    series_uid: str
    parts: Parts


def is_dicomdir(start: bytes) -> bool:
    """Whether the first kilobyte of a file, `start`, is that of a DICOMDIR."""
    return has_prefix(start) and DIRECTORY_CLASS in start


def referenced_files(path: Path) -> Iterator[Parts]:
    """Iterate over ReferencedFileID (0004,1500) of all records, as parts of a relative path.

    Raises InputError if the directory is damaged.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(META_START)
        while head := file.read(8):
            if len(head) < 8:
                raise _damaged(path)
            group, element = struct.unpack("<HH", head[:4])
            if group == ITEM_GROUP:
                continue
            if head[4:6] == b"SQ":
                file.read(4)  # the length of the sequence
                continue
            length = _read_length(file, head, path)
            if file.tell() + length > size:
                raise _damaged(path)
            if (group, element) == _REFERENCED_FILE_ID:
                yield _parts(file.read(length))
            else:
                file.seek(length, os.SEEK_CUR)


def listed_slices(path: Path) -> Iterator[ListedSlice]:
    """Iterate over the files of all images, those of one series together (PS3.3 F.3, F.5).

    The tree of records is followed by its offsets: the order of records in the file means nothing.
    Records that are not in use are left out. Raises InputError if the directory is damaged.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        pending = [(_first_record(file, size, path), "", "")]
        n_records = 0
        while pending:
            offset, study, series = pending.pop()
            if offset == 0:  # no record
                continue
            n_records += 1
            if n_records * _MIN_RECORD_BYTES > size:  # the offsets form a loop
                raise _damaged(path)
            values = _read_record(file, offset, size, path)
            pending.append((_offset(values.get(_NEXT_RECORD, b"")), study, series))
            study = _uid(values[_STUDY_UID]) if _STUDY_UID in values else study
            series = _uid(values[_SERIES_UID]) if _SERIES_UID in values else series
            pending.append((_offset(values.get(_LOWER_RECORD, b"")), study, series))
            is_image = values.get(_RECORD_TYPE, b"").strip() == b"IMAGE"
            is_in_use = values.get(_IN_USE, b"\xff\xff") != b"\0\0"
            if is_image and is_in_use and _REFERENCED_FILE_ID in values:
                yield ListedSlice(study, series, _parts(values[_REFERENCED_FILE_ID]))


def _first_record(file: BinaryIO, size: int, path: Path) -> int:
    """The offset of the first record, which is given before all records; 0 if there is none."""
    file.seek(META_START)
    while len(head := file.read(8)) == 8 and head[4:6] != b"SQ":
        length = _read_length(file, head, path)
        if file.tell() + length > size:
            break
        if struct.unpack("<HH", head[:4]) == _FIRST_RECORD:
            return _offset(file.read(length))
        file.seek(length, os.SEEK_CUR)
    raise _damaged(path)


def _read_record(
    file: BinaryIO, offset: int, size: int, path: Path
) -> dict[tuple[int, int], bytes]:
    """The values of _RECORD_TAGS of the record at `offset`, without those of nested sequences."""
    file.seek(offset)
    head = file.read(8)
    if head[:4] != struct.pack("<HH", ITEM_GROUP, 0xE000):
        raise _damaged(path)
    (length,) = struct.unpack("<I", head[4:])
    end = size if length == _UNDEFINED_LENGTH else offset + 8 + length
    values: dict[tuple[int, int], bytes] = {}
    depth = 0
    while file.tell() < end:
        head = file.read(8)
        if len(head) < 8:
            raise _damaged(path)
        tag = struct.unpack("<HH", head[:4])
        if tag[0] == ITEM_GROUP:
            if depth == 0 and tag in (_ITEM_END, _SEQUENCE_END):
                break
            depth -= tag == _SEQUENCE_END
            continue
        length = _read_length(file, head, path)
        if head[4:6] == b"SQ" and length == _UNDEFINED_LENGTH:
            depth += 1
            continue
        if file.tell() + length > size:
            raise _damaged(path)
        if depth == 0 and tag in _RECORD_TAGS:
            values[tag] = file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)
    return values


def _offset(value: bytes) -> int:
    return int.from_bytes(value[:4], "little")


def _uid(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _parts(value: bytes) -> Parts:
    return tuple(part.strip(" \0") for part in os.fsdecode(value).split("\\"))


def _read_length(file: BinaryIO, head: bytes, path: Path) -> int:
    """Length of the value of the element that begins with the 8 bytes `head` (PS3.5 7.1.2)."""
    if LENGTH_FIELD_BYTES.get(head[4:6], 2) == 2:
        return int(struct.unpack("<H", head[6:8])[0])
    field = file.read(4)
    if len(field) < 4:
        raise _damaged(path)
    return int(struct.unpack("<I", field)[0])


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: the DICOMDIR is broken; give the folder that holds the files")
