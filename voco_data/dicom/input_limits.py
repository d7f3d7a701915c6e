"""Limits for one file: the number and the size of the reads of its header.

pydicom parses all that a file claims. A damaged or hostile file of a few kilobytes can claim
millions of elements. Deflated data sets: `deflated.py` beside it.
"""

from __future__ import annotations

import io
from pathlib import Path

MAX_READS = 600_000
"""About two for each element: enough for the functional groups of 5,000 frames."""
MAX_HEADER_VALUE_BYTES = 2**28
"""Largest value before the pixels; no scanner writes a larger one."""


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
        """Up to `size` bytes. Raises ReadLimitError, also for a read without a size.

        pydicom asks for all of a file only to inflate it, which `deflated.py` does in steps.
        """
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ReadLimitError(f"more than {MAX_READS} reads")
        if size is None or size < 0:
            raise ReadLimitError("a read of the whole file")
        if self._max_read_bytes is not None and size > self._max_read_bytes:
            raise ReadLimitError(f"a value of {size} bytes")
        return super().read(size)
