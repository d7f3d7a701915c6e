"""Ids without names: keyed HMAC pseudonyms, with the key and the way back in a private folder."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from voco_data import atomic, spill
from voco_data.place import Place

FOLDER = "private"
PRIVATE_VARIABLE = "VOCO_PRIVATE"
KEY_FILE = "ids.key"
MAP_FILE = "ids.parquet"
KEY_BYTES = 32
PSEUDONYM_HEX = 20
"""80 bits: no collision among any number of ids that one archive can hold."""

COLUMNS = ("kind", "pseudonym", "original")
_SCHEMA = pa.schema([(name, pa.large_string()) for name in COLUMNS])
_PAIRS = """CREATE TABLE pairs (
    kind TEXT, pseudonym TEXT, original TEXT, PRIMARY KEY (kind, pseudonym)
) WITHOUT ROWID;"""
_ROWS_A_GROUP = 2_000


class Pseudonymiser:
    """Turns ids into pseudonyms under one key, and remembers the pairs, on disk."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._pairs: sqlite3.Connection | None = None

    def __call__(self, kind: str, original: str) -> str:
        """Pseudonym of an id; `kind` is `patient`, `study`, `series` or `source`.

        The same id gives the same pseudonym under one key; other kinds give other pseudonyms.
        """
        message = f"{kind}\0{original.strip()}".encode(errors="surrogateescape")
        code = hmac.new(self._key, message, hashlib.sha256).hexdigest()[:PSEUDONYM_HEX]
        pseudonym = f"{kind[0]}{code}"
        self.keep([(kind, pseudonym, spill.printable(original))])
        return pseudonym

    def close(self) -> None:
        """Give the disk space back."""
        if self._pairs is not None:
            self._pairs.close()

    def keep(self, pairs: Iterable[tuple[str, str, str]]) -> None:
        """Remember (kind, pseudonym, original); what is remembered already stays."""
        if self._pairs is None:
            self._pairs = spill.connect(_PAIRS)
        self._pairs.executemany("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)", pairs)

    def pairs(self) -> Iterator[tuple[str, str, str]]:
        """(kind, pseudonym, original) of every id that was asked for, sorted."""
        if self._pairs is not None:
            yield from self._pairs.execute("SELECT * FROM pairs ORDER BY kind, pseudonym")


def folder_of(root: Place) -> Path:
    """Where the key and the map of a root lie: on this machine, and outside every store.

    In a folder beside the stores. Those of a bucket are in the user's data folder, or in
    VOCO_PRIVATE: who may read the bucket may not learn the names.
    """
    folder = root.local()
    if folder is not None:
        return folder / FOLDER
    if named := os.environ.get(PRIVATE_VARIABLE):
        home = Path(named)
    else:
        home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "voco"
    return home / hashlib.sha256(str(root).encode()).hexdigest()[:12]


def load(root: Place) -> Pseudonymiser | None:
    """The pseudonymiser of a root, or None where no pseudonyms were ever made."""
    path = folder_of(root) / KEY_FILE
    return Pseudonymiser(bytes.fromhex(path.read_text().strip())) if path.exists() else None


def passing() -> Pseudonymiser:
    """A pseudonymiser of a key that nobody will know: for a look that writes nothing."""
    return Pseudonymiser(secrets.token_bytes(KEY_BYTES))


def load_or_make(root: Place) -> Pseudonymiser:
    """The pseudonymiser of a root; the key is made once, readable by its owner only."""
    folder = folder_of(root)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
    found = load(root)
    assert found is not None
    return found


def read_map(root: Place) -> Iterator[tuple[str, str, str]]:
    """(kind, pseudonym, original) of the private map; nothing where there is none."""
    path = folder_of(root) / MAP_FILE
    if path.exists():
        with pq.ParquetFile(path) as old:
            for batch in old.iter_batches(_ROWS_A_GROUP, columns=list(COLUMNS)):
                yield from zip(*(column.to_pylist() for column in batch), strict=True)


def save_map(root: Place, pseudonymiser: Pseudonymiser) -> None:
    """Add the pairs to the private map, so that the owner can find a patient again."""
    pseudonymiser.keep(read_map(root))
    write_map(root, pseudonymiser.pairs())


def write_map(root: Place, pairs: Iterator[tuple[str, str, str]]) -> None:
    """Replace the private map, atomically."""
    with atomic.replacing(folder_of(root) / MAP_FILE) as temporary:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with pq.ParquetWriter(temporary, _SCHEMA) as writer:
            for rows in _in_groups(pairs):
                columns = [list(column) for column in zip(*rows, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))


def _in_groups(
    pairs: Iterator[tuple[str, str, str]],
) -> Iterator[tuple[tuple[str, str, str], ...]]:
    while rows := tuple(islice(pairs, _ROWS_A_GROUP)):
        yield rows
