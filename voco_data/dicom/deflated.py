"""A guard before pydicom inflates a deflated data set (PS3.5 A.5) whole, into memory."""

from __future__ import annotations

import zlib
from pathlib import Path

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

DEFLATED = b"1.2.840.10008.1.2.1.99"
META_BYTES = 4096
"""File meta information ends well before this."""
MAX_INFLATED = 2**29
"""Bytes. One slice, or one multi-frame object, that inflates to more is not read."""
STEP = 2**20


def check_inflated_size(path: Path) -> None:
    """Raise SeriesRefused(UNREADABLE) for a deflated file that inflates beyond all reason."""
    try:
        with path.open("rb") as file:
            start = file.read(META_BYTES)
            at = _end_of_meta(start)
            if at is None:
                return
            file.seek(at)
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
        raise SeriesRefused(Reason.UNREADABLE, f"cannot be read ({error.strerror})") from error
    except zlib.error as error:
        raise SeriesRefused(Reason.UNREADABLE, "the deflated data set is damaged") from error


def _end_of_meta(start: bytes) -> int | None:
    """Where the deflated bytes begin, or None for a file of another syntax."""
    if start[128:132] != b"DICM" or DEFLATED not in start:
        return None
    # (0002,0000) UL 4: the length of what follows it in group 0002 (PS3.10 7.1).
    if start[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return None
    return 144 + int.from_bytes(start[140:144], "little")
