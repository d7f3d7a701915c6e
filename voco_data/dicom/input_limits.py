"""Limits for one file: the number of reads of its header, and the bytes that it inflates to.

pydicom parses all that a file claims. A damaged or hostile file of a few kilobytes can claim
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
    has_prefix,
)
from voco_data.errors import SeriesRefused, unreadable_error
from voco_data.reasons import Reason

MAX_READS = 600_000
"""About two for each element: enough for the functional groups of 5,000 frames."""
MAX_HEADER_VALUE_BYTES = 2**28
"""Largest value before the pixels; no scanner writes a larger one."""
MAX_INFLATED_BYTES = 2**29
"""Largest size of an inflated data set, of one slice or one multi-frame object."""

DEFLATED_UID = DEFLATED_LITTLE_ENDIAN.encode()
"""Bytes of the transfer syntax UID in a file."""
_FIRST_READ_BYTES = 4096
_MAX_META_BYTES = 65_536
"""Largest file meta information that is searched for its end."""
_INPUT_STEP_BYTES = 2**16
_OUTPUT_STEP_BYTES = 2**20


class ReadLimitError(ValueError):
    """The file needs more or larger reads than the header of any scanner."""


class ReadLimitedFile(io.BufferedReader):
    """A file that allows MAX_READS reads, of at most `max_read_bytes` each."""

    def __init__(self, path: Path, *, max_read_bytes: int | None = None) -> None:
        """Open `path`. Without `max_read_bytes`, a read may have any size."""
        super().__init__(io.FileIO(path))
        self._reads_left = MAX_READS
        self._max_read_bytes = max_read_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes. Raises ReadLimitError."""
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ReadLimitError(f"more than {MAX_READS} reads")
        if self._max_read_bytes is not None and size is not None and size > self._max_read_bytes:
            raise ReadLimitError(f"a value of {size} bytes")
        return super().read(size)


def check_inflated_size(path: Path, most_bytes: int = MAX_INFLATED_BYTES) -> None:
    """Inflate a deflated data set (PS3.5 A.5) in small pieces, to measure its size.

    pydicom later inflates all of it into memory. Files in other syntaxes are not read further.
    Raises SeriesRefused(UNREADABLE) above `most_bytes`, or for a damaged data set.
    """
    most_bytes = min(most_bytes, MAX_INFLATED_BYTES)
    try:
        with path.open("rb") as file:
            start = file.read(_FIRST_READ_BYTES)
            if DEFLATED_UID not in start:
                return
            start += file.read(_MAX_META_BYTES - len(start))
            file.seek(_meta_end(start))
            inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
            while chunk := file.read(_INPUT_STEP_BYTES):
                while chunk and not inflate.eof:
                    total += len(inflate.decompress(chunk, _OUTPUT_STEP_BYTES))
                    chunk = inflate.unconsumed_tail
                    if total > most_bytes:
                        raise SeriesRefused(
                            Reason.UNREADABLE, f"inflates to more than {most_bytes} bytes"
                        )
    except OSError as error:
        raise unreadable_error(error, "cannot be read") from error
    except zlib.error as error:
        raise SeriesRefused(Reason.UNREADABLE, "the deflated data set is damaged") from error


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
