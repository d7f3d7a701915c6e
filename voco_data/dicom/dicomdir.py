"""DICOMDIR: the files that a directory of a CD or DVD lists (PS3.3 Annex F, PS3.10 8.6).

Read as a stream, so a directory of any size takes no memory. It is always explicit VR little
endian. Sequences and items are entered by stepping over their heads.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from voco_data.dicom.stack_key import DIRECTORY_CLASS
from voco_data.errors import InputError

PREAMBLE = 132
_REFERENCED_FILE_ID = (0x0004, 0x1500)
_ITEMS = 0xFFFE
_LONG = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""Value representations with a length of 32 bits, but for SQ (PS3.5 7.1.2)."""


def is_directory(start: bytes) -> bool:
    """Whether the first kilobyte of a file is that of a DICOMDIR."""
    return start[128:132] == b"DICM" and DIRECTORY_CLASS in start


def referenced_files(path: Path) -> Iterator[tuple[str, ...]]:
    """ReferencedFileID (0004,1500) of every record, as the components of a path.

    Raises InputError where the directory is broken.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(PREAMBLE)
        while head := file.read(8):
            if len(head) < 8:
                raise _broken(path)
            group, element = struct.unpack("<HH", head[:4])
            if group == _ITEMS or head[4:6] == b"SQ":
                if group != _ITEMS:
                    file.read(4)
                continue
            length = _length(file, head, path)
            if file.tell() + length > size:
                raise _broken(path)
            if (group, element) == _REFERENCED_FILE_ID:
                value = os.fsdecode(file.read(length))
                yield tuple(part.strip(" \0") for part in value.split("\\"))
            else:
                file.seek(length, os.SEEK_CUR)


def _length(file: BinaryIO, head: bytes, path: Path) -> int:
    if head[4:6] not in _LONG:
        return int(struct.unpack("<H", head[6:8])[0])
    rest = file.read(4)
    if len(rest) < 4:
        raise _broken(path)
    return int(struct.unpack("<I", rest)[0])


def _broken(path: Path) -> InputError:
    return InputError(f"{path}: the DICOMDIR is broken; give the folder that holds the files")
