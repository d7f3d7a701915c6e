"""Keyed pseudonyms (HMAC-SHA-256) for ids; the key and the map are in a private folder."""

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
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from platformdirs import user_data_path

from voco_data.batching import batched
from voco_data.deidentification.written_ids import PSEUDONYM, ids_in_stores
from voco_data.errors import InputError, StoreCorrupt, VocoError
from voco_data.storage import (
    FINGERPRINT,
    PRIVATE_FOLDER,
    LocalStorage,
    ReadableStorage,
    Storage,
    atomic,
    locks,
    parquet,
    scratch_db,
)

log = logging.getLogger(__name__)

PRIVATE_VARIABLE = "VOCO_PRIVATE"
KEY_FILE = "ids.key"
MAP_FILE = "ids.parquet"
DAMAGED_MAP_FILE = "ids.damaged.parquet"
LOCK_FILE = "ids.lock"
LOCK_S = 60.0
"""Time to wait for another run that writes the map."""
KEY_BYTES = 32
PSEUDONYM_HEX = 20
"""Hex digits of a pseudonym: 80 bits, so a collision is unlikely in any archive."""

COLUMNS = ("kind", "pseudonym", "original")
_SCHEMA = pa.schema([(name, pa.large_string()) for name in COLUMNS])
_PAIRS = """CREATE TABLE pairs (
    kind TEXT, pseudonym TEXT, original TEXT, PRIMARY KEY (kind, pseudonym)
) WITHOUT ROWID;"""
_ROWS_A_GROUP = 2_000
_SERIES_PSEUDONYM = re.compile(rf"s[0-9a-f]{{{PSEUDONYM_HEX}}}")


class Pseudonymiser:
    """Makes pseudonyms of ids with one key, and collects the pairs in a scratch database."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._pairs: sqlite3.Connection | None = None

    @property
    def fingerprint(self) -> str:
        """An HMAC of a fixed text, which identifies the key and does not reveal it."""
        return hmac.new(self._key, b"fingerprint", hashlib.sha256).hexdigest()

    def __call__(self, kind: str, original: str) -> str:
        """Pseudonym of an id; `kind` is `patient`, `study`, `series`, `source` or `archive`.

        With one key, an id and a kind always give the same pseudonym; another kind gives another.
        """
        pseudonym = self.code(kind, original)
        self.add_pairs([(kind, pseudonym, scratch_db.escape_undecodable(original))])
        return pseudonym

    def code(self, kind: str, original: str) -> str:
        """The pseudonym of an id, which is not collected, so that the map does not name the id."""
        message = f"{kind}\0{original.strip()}".encode(errors="surrogateescape")
        return kind[0] + hmac.new(self._key, message, hashlib.sha256).hexdigest()[:PSEUDONYM_HEX]

    def close(self) -> None:
        """Remove the scratch database."""
        if self._pairs is not None:
            self._pairs.close()

    def add_pairs(self, pairs: Iterable[tuple[str, str, str]]) -> None:
        """Add (kind, pseudonym, original). The first pair of a pseudonym stays."""
        with scratch_db.translate_disk_full():
            if self._pairs is None:
                self._pairs = scratch_db.open_scratch_db(_PAIRS)
            self._pairs.executemany("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)", pairs)

    def pairs(self) -> Iterator[tuple[str, str, str]]:
        """Iterate over (kind, pseudonym, original) of all pairs, sorted."""
        if self._pairs is not None:
            yield from self._pairs.execute("SELECT * FROM pairs ORDER BY kind, pseudonym")


def may_be_series_pseudonym(text: str) -> bool:
    """Whether a text has the form of the pseudonym of a series, under any key."""
    return _SERIES_PSEUDONYM.fullmatch(text) is not None


def private_folder(root: ReadableStorage) -> Path:
    """The folder of this machine with key and map of a root.

    For a root on disk it is beside the stores. For a bucket it is in VOCO_PRIVATE, else in the data
    folder of the user: readers of the bucket must not see the map.
    """
    folder = root.local_folder()
    if folder is not None:
        return folder / PRIVATE_FOLDER
    configured = os.environ.get(PRIVATE_VARIABLE)
    parent = Path(configured) if configured else user_data_path("voco")
    return parent / hashlib.sha256(str(root).encode()).hexdigest()[:12]


def load(root: ReadableStorage) -> Pseudonymiser | None:
    """The pseudonymiser of a root, or None where no key was made yet.

    Raises VocoError for a damaged key, and InputError for a lost one, or for one that made none of
    the pseudonyms of the map: another one would give every patient a second pseudonym, and without
    one labels and patients are not found.
    """
    path = private_folder(root) / KEY_FILE
    if not path.exists():
        _check_needs_no_key(root)
        return None
    text = path.read_text(errors="replace").strip()
    if not re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise VocoError(
            f"{path}: expected a key of {2 * KEY_BYTES} hex digits, got something else; "
            "restore it from a copy, or choose another --root"
        )
    pseudonymiser = Pseudonymiser(bytes.fromhex(text))
    _check_made_map(root, pseudonymiser)
    return pseudonymiser


def _check_made_map(root: ReadableStorage, pseudonymiser: Pseudonymiser) -> None:
    """Raise InputError if the map has pseudonyms, and the key has made none of them.

    One is enough: the map of an older root may hold those of two keys. A damaged map is named, and
    the key is used unchecked: only who looks for a patient needs the map.
    """
    pairs = read_map(root)
    try:
        first = next(pairs, None)
        if first is None:
            return
        is_made = any(
            pseudonymiser.code(kind, original) == pseudonym
            for kind, pseudonym, original in chain([first], pairs)
        )
    except StoreCorrupt as error:
        log.warning("%s", error)
        return
    if not is_made:
        raise InputError(
            f"{private_folder(root) / KEY_FILE}: this key made none of the pseudonyms in {MAP_FILE}"
            " beside it, and would give each patient a second name; restore the root's own key"
        )


def has_key_or_map(root: ReadableStorage) -> bool:
    """Whether pseudonyms were made for a root, on this machine or, for a bucket, on another."""
    folder = private_folder(root)
    files = (folder / KEY_FILE, folder / MAP_FILE)
    return any(file.exists() for file in files) or root.size(FINGERPRINT) is not None


def _check_needs_no_key(root: ReadableStorage) -> None:
    """Raise InputError if pseudonyms exist: in the map, in a store, or made on another machine."""
    if root.local_folder() is None:
        _check_fingerprint(root, None)
    folder = private_folder(root)
    key = folder / KEY_FILE
    has_pseudonyms = (folder / MAP_FILE).exists() or any(
        ids == PSEUDONYM for ids, _ in ids_in_stores(root)
    )
    if has_pseudonyms and not key.exists():  # a run that began just now may have made it
        raise InputError(
            f"{key}: the key of the pseudonyms of {root} is missing, and another one "
            "would give each patient a second name; restore it from a copy, or choose another root"
        )


def with_random_key() -> Pseudonymiser:
    """A pseudonymiser with a random key that is not stored, for runs that write nothing."""
    return Pseudonymiser(secrets.token_bytes(KEY_BYTES))


def load_or_make(root: Storage) -> Pseudonymiser:
    """The pseudonymiser of a root; the key is made once, readable by its owner only.

    The key is made under a lock, so that two runs that begin at once use the same key. A bucket
    holds the fingerprint of the key, because all machines that use it need the same one. Raises
    InputError if the bucket has a fingerprint, and this machine another key or none, and if the key
    of a root is lost that has pseudonyms.
    """
    folder = private_folder(root)
    _set_damaged_map_aside(root)
    pseudonymiser = load(root)
    if root.local_folder() is None:
        _check_fingerprint(root, pseudonymiser)
    atomic.make_folders(folder, mode=0o700)
    path = folder / KEY_FILE
    if not path.exists():
        key = f"{secrets.token_hex(KEY_BYTES)}\n".encode()
        with locks.hold_lock(folder / LOCK_FILE, wait_seconds=LOCK_S, mode=0o600):
            if not path.exists():
                atomic.write_bytes(path, key, mode=0o600)
        if root.local_folder() is None:
            log.info("key and map of the pseudonyms of %s lie in %s: keep them safe", root, folder)
    pseudonymiser = load(root)
    assert pseudonymiser is not None
    if root.local_folder() is None and root.size(FINGERPRINT) is None:
        root.write(FINGERPRINT, pseudonymiser.fingerprint.encode())
        # Another machine may have written its own fingerprint at the same time.
        _check_fingerprint(root, pseudonymiser)
    return pseudonymiser


def _check_fingerprint(root: ReadableStorage, pseudonymiser: Pseudonymiser | None) -> None:
    """Raise InputError if a bucket has the fingerprint of another key, or of any if None."""
    try:
        expected = root.read(FINGERPRINT).decode(errors="replace").strip()
    except FileNotFoundError:
        return
    if pseudonymiser is None or pseudonymiser.fingerprint != expected:
        folder = private_folder(root)
        raise InputError(
            f"{root}: its pseudonyms were made with a key that is not in {folder}; copy {KEY_FILE} "
            f"and {MAP_FILE} there from the machine that made them, or set {PRIVATE_VARIABLE}"
        )


def read_map(root: ReadableStorage) -> Iterator[tuple[str, str, str]]:
    """(kind, pseudonym, original) of the private map; none where there is no map.

    Raises StoreCorrupt, of one line, if the map is damaged.
    """
    folder = private_folder(root)
    try:
        yield from parquet.iter_rows(LocalStorage(folder), MAP_FILE, COLUMNS)
    except StoreCorrupt as error:
        raise StoreCorrupt(
            f"{folder / MAP_FILE}: the map of the pseudonyms cannot be read; run voco preprocess "
            "over each archive of this root, which makes it anew from the archives and the key"
        ) from error


def _set_damaged_map_aside(root: Storage) -> None:
    """Rename a map that cannot be read, so that this run makes another one.

    What other archives have given to the map is missing in it until they are preprocessed again.
    """
    path = private_folder(root) / MAP_FILE
    if not path.exists():
        return
    with lock_map(root):
        try:
            for _ in read_map(root):
                pass
        except StoreCorrupt as error:
            path.replace(path.with_name(DAMAGED_MAP_FILE))
            log.warning("%s; the old one is now %s", error, DAMAGED_MAP_FILE)


def merge_into_map(root: Storage, pseudonymiser: Pseudonymiser) -> None:
    """Add the pairs of `pseudonymiser` to the private map."""
    with lock_map(root):
        pseudonymiser.add_pairs(read_map(root))
        write_map(root, pseudonymiser.pairs())


@contextmanager
def lock_map(root: Storage) -> Iterator[None]:
    """Hold the lock under which the private map is read and replaced."""
    with locks.hold_lock(private_folder(root) / LOCK_FILE, wait_seconds=LOCK_S, mode=0o600):
        yield


def write_map(root: Storage, pairs: Iterator[tuple[str, str, str]]) -> None:
    """Replace the private map, atomically. Call it within `lock_map`."""
    with atomic.replacing(private_folder(root) / MAP_FILE) as temporary:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with pq.ParquetWriter(
            temporary, _SCHEMA, write_page_checksum=True, write_statistics=False
        ) as writer:
            for rows in batched(pairs, _ROWS_A_GROUP):
                columns = [list(column) for column in zip(*rows, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
