"""DICOMDIR: the files that a directory of a CD or DVD lists (PS3.3 Annex F, PS3.10 8.6).

A DICOMDIR is always explicit VR little endian. It is read as a stream, so memory does not grow with
its size. The reader skips only the heads of sequences and items, so it visits all their elements.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
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

_REFERENCED_FILE_ID = (0x0004, 0x1500)


def is_dicomdir(start: bytes) -> bool:
    """Whether the first kilobyte of a file, `start`, is that of a DICOMDIR."""
    return has_prefix(start) and DIRECTORY_CLASS in start


def referenced_files(path: Path) -> Iterator[tuple[str, ...]]:
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
                value = os.fsdecode(file.read(length))
                yield tuple(part.strip(" \0") for part in value.split("\\"))
            else:
                file.seek(length, os.SEEK_CUR)


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
