"""Ids without names: keyed HMAC pseudonyms, with the key and the way back in a private folder."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from platformdirs import user_data_path

from voco_data.errors import InputError, VocoError
from voco_data.storage import atomic, locks, scratch_db
from voco_data.storage.base import Storage
from voco_data.storage.root import PRIVATE_FOLDER

log = logging.getLogger(__name__)

PRIVATE_VARIABLE = "VOCO_PRIVATE"
KEY_FILE = "ids.key"
MAP_FILE = "ids.parquet"
LOCK_FILE = "ids.lock"
LOCK_S = 60.0
"""Writing the map takes another run a moment."""
FINGERPRINT = "pseudonyms.fingerprint"
"""In a bucket's root: which key its ids were made with."""
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

    @property
    def fingerprint(self) -> str:
        """Tells keys apart, and nothing else of them: an HMAC of a fixed text."""
        return hmac.new(self._key, b"fingerprint", hashlib.sha256).hexdigest()

    def __call__(self, kind: str, original: str) -> str:
        """Pseudonym of an id; `kind` is `patient`, `study`, `series` or `source`.

        The same id gives the same pseudonym under one key; other kinds give other pseudonyms.
        """
        message = f"{kind}\0{original.strip()}".encode(errors="surrogateescape")
        code = hmac.new(self._key, message, hashlib.sha256).hexdigest()[:PSEUDONYM_HEX]
        pseudonym = f"{kind[0]}{code}"
        self.keep([(kind, pseudonym, scratch_db.escape_undecodable(original))])
        return pseudonym

    def close(self) -> None:
        """Give the disk space back."""
        if self._pairs is not None:
            self._pairs.close()

    def keep(self, pairs: Iterable[tuple[str, str, str]]) -> None:
        """Remember (kind, pseudonym, original); what is remembered already stays."""
        with scratch_db.translate_disk_full():
            if self._pairs is None:
                self._pairs = scratch_db.open_scratch_db(_PAIRS)
            self._pairs.executemany("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)", pairs)

    def pairs(self) -> Iterator[tuple[str, str, str]]:
        """(kind, pseudonym, original) of every id that was asked for, sorted."""
        if self._pairs is not None:
            yield from self._pairs.execute("SELECT * FROM pairs ORDER BY kind, pseudonym")


def folder_of(root: Storage) -> Path:
    """Where the key and the map of a root lie: on this machine, and outside every store.

    In a folder beside the stores. Those of a bucket are in the user's data folder, or in
    VOCO_PRIVATE: who may read the bucket may not learn the names.
    """
    folder = root.local()
    if folder is not None:
        return folder / PRIVATE_FOLDER
    named = os.environ.get(PRIVATE_VARIABLE)
    home = Path(named) if named else user_data_path("voco")
    return home / hashlib.sha256(str(root).encode()).hexdigest()[:12]


def load(root: Storage) -> Pseudonymiser | None:
    """The pseudonymiser of a root, or None where no pseudonyms were ever made.

    Raises VocoError where the key is damaged: another key would give every patient a second name.
    """
    path = folder_of(root) / KEY_FILE
    if not path.exists():
        return None
    text = path.read_text(errors="replace").strip()
    if not re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise VocoError(
            f"{path}: expected a key of {2 * KEY_BYTES} hex digits, got something else; "
            "restore it from a copy, or choose another --root"
        )
    return Pseudonymiser(bytes.fromhex(text))


def passing() -> Pseudonymiser:
    """A pseudonymiser of a key that nobody will know: for a look that writes nothing."""
    return Pseudonymiser(secrets.token_bytes(KEY_BYTES))


def load_or_make(root: Storage) -> Pseudonymiser:
    """The pseudonymiser of a root; the key is made once, readable by its owner only.

    The key appears whole: of two runs that make one at once, the second takes that of the first.
    A bucket is used from several machines, and must see one key: it keeps the key's fingerprint.
    Raises InputError where this machine has another key, or none.
    """
    folder = folder_of(root)
    if root.local() is None:
        _check_fingerprint(root, folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / KEY_FILE
    if not path.exists():
        key = f"{secrets.token_hex(KEY_BYTES)}\n".encode()
        with locks.hold_lock(folder / LOCK_FILE, wait_seconds=LOCK_S, mode=0o600):
            if not path.exists():
                atomic.write_bytes(path, key, mode=0o600)
        if root.local() is None:
            log.info("key and map of the pseudonyms of %s lie in %s: keep them safe", root, folder)
    found = load(root)
    assert found is not None
    if root.local() is None and root.size(FINGERPRINT) is None:
        root.write(FINGERPRINT, found.fingerprint.encode())
        _check_fingerprint(root, folder)  # two machines may have begun at once
    return found


def _check_fingerprint(root: Storage, folder: Path) -> None:
    try:
        expected = root.read(FINGERPRINT).decode(errors="replace").strip()
    except FileNotFoundError:
        return
    found = load(root)
    if found is None or found.fingerprint != expected:
        raise InputError(
            f"{root}: its pseudonyms were made with a key that is not in {folder}; copy {KEY_FILE} "
            f"and {MAP_FILE} there from the machine that made them, or set {PRIVATE_VARIABLE}"
        )


def read_map(root: Storage) -> Iterator[tuple[str, str, str]]:
    """(kind, pseudonym, original) of the private map; nothing where there is none."""
    path = folder_of(root) / MAP_FILE
    if path.exists():
        with pq.ParquetFile(path) as old:
            for batch in old.iter_batches(_ROWS_A_GROUP, columns=list(COLUMNS)):
                yield from zip(*(column.to_pylist() for column in batch), strict=True)


def save_map(root: Storage, pseudonymiser: Pseudonymiser) -> None:
    """Add the pairs to the private map, so that the owner can find a patient again."""
    with changing_map(root):
        pseudonymiser.keep(read_map(root))
        write_map(root, pseudonymiser.pairs())


@contextmanager
def changing_map(root: Storage) -> Iterator[None]:
    """Be the one who reads and replaces the private map."""
    with locks.hold_lock(folder_of(root) / LOCK_FILE, wait_seconds=LOCK_S, mode=0o600):
        yield


def write_map(root: Storage, pairs: Iterator[tuple[str, str, str]]) -> None:
    """Replace the private map, atomically. Within `changing_map`."""
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
