"""A file that counts how often it is asked: a header of millions of elements ends in an error."""

from __future__ import annotations

import io
from pathlib import Path

MOST_READS = 600_000
"""About two an element: enough for the functional groups of 5,000 frames, and seconds to parse."""
LARGEST_HEADER_VALUE = 2**28
"""Bytes. Before the pixels no scanner writes a larger value."""


class TooMuchError(ValueError):
    """The file asks for more than a real header holds."""


class CountedFile(io.BufferedReader):
    """Reads as usual, a limited number of times."""

    def __init__(self, path: Path, *, largest: int | None = None) -> None:
        """`largest` bounds the bytes of one read."""
        super().__init__(io.FileIO(path))
        self._left = MOST_READS
        self._largest = largest

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes. Raises TooMuchError."""
        self._left -= 1
        if self._left < 0:
            raise TooMuchError(f"more than {MOST_READS} reads")
        if self._largest is not None and size is not None and size > self._largest:
            raise TooMuchError(f"a value of {size} bytes")
        return super().read(size)
