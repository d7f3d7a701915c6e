"""Limits on what one file may cost: reads of its header, and bytes that it inflates to.

pydicom parses whatever a file claims. A damaged or hostile file of a few kilobytes can claim
millions of elements, or deflate gigabytes.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path

from voco_data.dicom.binary_format import (
    DEFLATED_LITTLE_ENDIAN,
    LENGTH_FIELD_BYTES,
    META_GROUP,
    META_START,
    PREAMBLE_BYTES,
    PREFIX,
)
from voco_data.errors import SeriesRefused, unreadable_error
from voco_data.reasons import Reason

MAX_READS = 600_000
"""About two an element: enough for the functional groups of 5,000 frames, and seconds to parse."""
MAX_HEADER_VALUE_BYTES = 2**28
"""No scanner writes a larger value before the pixels."""
MAX_INFLATED_BYTES = 2**29
"""One slice, or one multi-frame object, that inflates to more is not read."""

DEFLATED = DEFLATED_LITTLE_ENDIAN.encode()
_FIRST_READ_BYTES = 4096
_MAX_META_BYTES = 65_536
"""File meta information ends well before this."""
_INPUT_STEP_BYTES = 2**16
_OUTPUT_STEP_BYTES = 2**20


class TooMuchError(ValueError):
    """The file asks for more than a real header holds."""


class CountedFile(io.BufferedReader):
    """A file that may be read MAX_READS times, at most `largest` bytes each time."""

    def __init__(self, path: Path, *, largest: int | None = None) -> None:
        """Open `path`. Without `largest`, a read may have any size."""
        super().__init__(io.FileIO(path))
        self._reads_left = MAX_READS
        self._largest = largest

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes. Raises TooMuchError."""
        self._reads_left -= 1
        if self._reads_left < 0:
            raise TooMuchError(f"more than {MAX_READS} reads")
        if self._largest is not None and size is not None and size > self._largest:
            raise TooMuchError(f"a value of {size} bytes")
        return super().read(size)


def check_inflated_size(path: Path) -> None:
    """Inflate a deflated data set (PS3.5 A.5) piece by piece, and keep nothing.

    pydicom inflates it whole, into memory. Files in other syntaxes pass at once. Raises
    SeriesRefused(UNREADABLE) beyond MAX_INFLATED_BYTES, or for a damaged data set.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_FIRST_READ_BYTES)
            if DEFLATED not in start:
                return
            start += file.read(_MAX_META_BYTES - len(start))
            file.seek(_meta_end(start))
            inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
            while chunk := file.read(_INPUT_STEP_BYTES):
                while chunk and not inflate.eof:
                    total += len(inflate.decompress(chunk, _OUTPUT_STEP_BYTES))
                    chunk = inflate.unconsumed_tail
                    if total > MAX_INFLATED_BYTES:
                        raise SeriesRefused(
                            Reason.UNREADABLE, f"inflates to more than {MAX_INFLATED_BYTES} bytes"
                        )
    except OSError as error:
        raise unreadable_error(error, "cannot be read") from error
    except zlib.error as error:
        raise SeriesRefused(Reason.UNREADABLE, "the deflated data set is damaged") from error


def _meta_end(start: bytes) -> int:
    """Offset of the deflated bytes: they follow the elements of group 0002 (PS3.10 7.1)."""
    at = META_START if start[PREAMBLE_BYTES:META_START] == PREFIX else 0
    group = META_GROUP.to_bytes(2, "little")
    while start[at : at + 2] == group:
        if LENGTH_FIELD_BYTES.get(start[at + 4 : at + 6], 2) == 4:
            at += 12 + int.from_bytes(start[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(start[at + 6 : at + 8], "little")
    if at + 8 > len(start):
        raise SeriesRefused(Reason.UNREADABLE, "deflated, and its file meta does not end")
    return at
