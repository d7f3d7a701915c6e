"""Keys of all objects of a store, and of its lock. See STORE.md.

Every key is defined here only.
"""

from __future__ import annotations

import re
from collections.abc import Callable

METADATA = "zarr.json"
"""Metadata of a Zarr group or array, in its folder."""
GROUP_METADATA = METADATA
"""Metadata of the store's group; its attributes hold the spec."""

VOLUMES = "volumes"
"""Array (N, Z, Y, X) of the volumes."""
VALID = "valid"
"""Array (N,): which rows hold a volume."""
ARRAYS = (VOLUMES, VALID)

# Records and tables are in the folder of an array, where no Zarr tool takes them for members of the
# group.
CHUNKS = f"{VOLUMES}/c"
RECORDS = f"{VOLUMES}/records"
CATALOGUE = f"{VOLUMES}/catalogue.parquet"
ROW_IDS = f"{VOLUMES}/rows.parquet"
VERIFIED = f"{VOLUMES}/seals.parquet"

ROWS_PER_FOLDER = 1000
"""Rows whose records share a folder, so that no folder grows without bound."""

WRITE_ONCE = (f"{CHUNKS}/", f"{RECORDS}/")
"""Prefixes of the keys of chunks and records: there are many, and none is ever replaced."""

MAX_ROWS = 100_000_000
"""Rows of a store, at most. A larger number in a key or in metadata is damaged or forged."""

_CHUNK_KEY = re.compile(rf"{CHUNKS}/(0|[1-9]\d{{0,8}})/0/0/0")
_RECORD_KEY = re.compile(rf"{RECORDS}/\d{{6}}/(\d{{9}})\.json")


def array_metadata(array: str) -> str:
    """Key of the metadata of one of `ARRAYS`."""
    return f"{array}/{METADATA}"


def chunk_key(row: int) -> str:
    """Key of the chunk that is volume `row` (Zarr v3 default chunk key encoding)."""
    return f"{chunk_folder(row)}/0/0/0"


def chunk_folder(row: int) -> str:
    """Folder that holds the chunk of volume `row`, and nothing else."""
    return f"{CHUNKS}/{row}"


def row_of_chunk(key: str) -> int | None:
    """The row whose chunk has this key; None for other objects."""
    return _row_of(_CHUNK_KEY.fullmatch(key), key, chunk_key)


def valid_chunk_key(number: int) -> str:
    """Key of chunk `number` of the array `valid`."""
    return f"{VALID}/c/{number}"


def record_key(row: int) -> str:
    """Key of the record of `row`."""
    return f"{RECORDS}/{row // ROWS_PER_FOLDER:06d}/{row:09d}.json"


def row_of_record(key: str) -> int | None:
    """The row whose record has this key; None for other objects."""
    return _row_of(_RECORD_KEY.fullmatch(key), key, record_key)


def _row_of(match: re.Match[str] | None, key: str, key_of: Callable[[int], str]) -> int | None:
    row = -1 if match is None else int(match[1])
    return row if 0 <= row < MAX_ROWS and key_of(row) == key else None


def lock_key(store: str) -> str:
    """Key, below the root, of the lock of the store in the folder `store`."""
    return f".{store}.lock"
