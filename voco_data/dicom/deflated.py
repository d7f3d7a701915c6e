"""A guard before pydicom inflates a deflated data set (PS3.5 A.5) whole, into memory."""

from __future__ import annotations

import zlib
from pathlib import Path

from voco_data.errors import SeriesRefused, unreadable
from voco_data.reasons import Reason

DEFLATED = b"1.2.840.10008.1.2.1.99"
META_BYTES = 65_536
"""File meta information ends well before this."""
MAX_INFLATED = 2**29
"""Bytes. One slice, or one multi-frame object, that inflates to more is not read."""
STEP = 2**20
LONG_VRS = (b"OB", b"OW", b"SQ", b"UN", b"UT")
"""Value representations whose length takes 32 bits after two reserved bytes (PS3.5 7.1.2)."""


def check_inflated_size(path: Path) -> None:
    """Raise SeriesRefused(UNREADABLE) for a deflated file that inflates beyond all reason."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
            if DEFLATED not in start:
                return
            start += file.read(META_BYTES - len(start))
            file.seek(_end_of_meta(start))
            inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
            while chunk := file.read(STEP // 16):
                while chunk and not inflate.eof:
                    total += len(inflate.decompress(chunk, STEP))
                    chunk = inflate.unconsumed_tail
                    if total > MAX_INFLATED:
                        raise SeriesRefused(
                            Reason.UNREADABLE, f"inflates to more than {MAX_INFLATED} bytes"
                        )
    except OSError as error:
        raise unreadable(error, "cannot be read") from error
    except zlib.error as error:
        raise SeriesRefused(Reason.UNREADABLE, "the deflated data set is damaged") from error


def _end_of_meta(start: bytes) -> int:
    """Where the deflated bytes begin: after the elements of group 0002 (PS3.10 7.1)."""
    at = 132 if start[128:132] == b"DICM" else 0
    while start[at : at + 2] == b"\x02\x00":
        if start[at + 4 : at + 6] in LONG_VRS:
            at += 12 + int.from_bytes(start[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(start[at + 6 : at + 8], "little")
    if at + 8 > len(start):
        raise SeriesRefused(Reason.UNREADABLE, "deflated, and its file meta does not end")
    return at
