"""Ids without names: keyed HMAC pseudonyms, with the key and the way back in a private folder."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from voco_data import atomic

FOLDER = "private"
KEY_FILE = "ids.key"
MAP_FILE = "ids.parquet"
KEY_BYTES = 32
PSEUDONYM_HEX = 20
"""80 bits: no collision among any number of ids that one archive can hold."""


class Pseudonymiser:
    """Turns ids into pseudonyms under one key, and remembers the pairs."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._pairs: dict[tuple[str, str], str] = {}

    def __call__(self, kind: str, original: str) -> str:
        """Pseudonym of an id; `kind` is `patient`, `study`, `series` or `source`.

        The same id gives the same pseudonym under one key; other kinds give other pseudonyms.
        """
        message = f"{kind}\0{original.strip()}".encode(errors="surrogateescape")
        code = hmac.new(self._key, message, hashlib.sha256).hexdigest()[:PSEUDONYM_HEX]
        pseudonym = f"{kind[0]}{code}"
        self._pairs[(kind, pseudonym)] = original
        return pseudonym

    def pairs(self) -> Iterable[tuple[str, str, str]]:
        """(kind, pseudonym, original) of every id that was asked for."""
        return ((kind, pseudonym, original) for (kind, pseudonym), original in self._pairs.items())


def load(root: Path) -> Pseudonymiser | None:
    """The pseudonymiser of a root, or None where no pseudonyms were ever made."""
    path = root / FOLDER / KEY_FILE
    return Pseudonymiser(bytes.fromhex(path.read_text().strip())) if path.exists() else None


def load_or_make(root: Path) -> Pseudonymiser:
    """The pseudonymiser of a root; the key is made once, readable by its owner only."""
    folder = root / FOLDER
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


def save_map(root: Path, pseudonymiser: Pseudonymiser) -> None:
    """Add the pairs to the private map, so that the owner can find a patient again."""
    path = root / FOLDER / MAP_FILE
    columns = ["kind", "pseudonym", "original"]
    table = pd.DataFrame(list(pseudonymiser.pairs()), columns=columns, dtype="string")
    if path.exists():
        table = pd.concat([pd.read_parquet(path), table]).drop_duplicates(columns[:2])
    with atomic.replacing(path) as temporary:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        table.sort_values(columns[:2]).to_parquet(temporary, index=False)
