"""Keys of everything that a store holds. See STORE.md."""

from __future__ import annotations

import re

CHUNKS = "volumes/c"
_CHUNK_KEY = re.compile(rf"{CHUNKS}/(\d+)/0/0/0")
RECORDS = "volumes/records"
"""Inside the array's folder, where no Zarr tool takes it for a member of the group."""

ROWS_PER_FOLDER = 1000
"""Records lie in folders of this many rows, so that no folder grows without bound."""

WRITE_ONCE = (f"{CHUNKS}/", f"{RECORDS}/")
"""Beginnings of the keys of objects that are as many as the series and are never replaced."""

_RECORD_KEY = re.compile(rf"{RECORDS}/\d{{6,}}/(\d{{9,}})\.json")


def chunk_key(row: int) -> str:
    """Key of the chunk that is volume `row` (Zarr v3 default chunk key encoding)."""
    return f"{chunk_folder(row)}/0/0/0"


def row_of_chunk(key: str) -> int | None:
    """The row whose chunk has this key; None for other objects."""
    found = _CHUNK_KEY.fullmatch(key)
    return None if found is None else int(found[1])


def chunk_folder(row: int) -> str:
    """Folder that holds the chunk of volume `row`, and nothing else."""
    return f"{CHUNKS}/{row}"


def record_key(row: int) -> str:
    """Where the record of `row` lies inside the store."""
    return f"{RECORDS}/{row // ROWS_PER_FOLDER:06d}/{row:09d}.json"


def row_of_record(key: str) -> int | None:
    """The row whose record has this key; None for other objects."""
    found = _RECORD_KEY.fullmatch(key)
    return None if found is None else int(found[1])
