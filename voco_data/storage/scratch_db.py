"""Tables on disk for what must not grow in memory: a private SQLite file, gone with its user."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from voco_data.errors import VocoError

CACHE_KIB = 1024
"""Memory of one spill; the rest is on disk."""


def open_scratch_db(schema: str) -> sqlite3.Connection:
    """A new, empty database with the tables of `schema`.

    A database without a name is SQLite's own temporary file in TMPDIR (else /var/tmp or /tmp).
    It has no name from the moment it is made, so nothing stays behind, whatever ends us.
    """
    # A user is one thread at a time, though not always the one that made it.
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    connection.executescript(
        f"PRAGMA cache_size=-{CACHE_KIB}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
        f"PRAGMA temp_store=FILE; {schema} BEGIN;"
    )
    return connection


@contextmanager
def scratch_tables(schema: str) -> Iterator[sqlite3.Connection]:
    """`open_scratch_db`, closed at the end. Raises VocoError where the temporary folder is full."""
    connection = open_scratch_db(schema)
    try:
        with translate_disk_full():
            yield connection
    finally:
        connection.close()


@contextmanager
def translate_disk_full() -> Iterator[None]:
    """Raises VocoError where the temporary folder is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise VocoError(
            f"the temporary folder cannot take the index ({error}); "
            "set TMPDIR to a folder with more space"
        ) from error


def exists(connection: sqlite3.Connection, query: str, parameters: Sequence[object] = ()) -> bool:
    """Whether the rest of a SELECT, such as `FROM rows WHERE row = ?`, finds any row."""
    found = connection.execute(f"SELECT EXISTS (SELECT 1 {query})", parameters).fetchone()
    return bool(found[0])


def escape_undecodable(text: str) -> str:
    """`text` as UTF-8 can hold it: bytes of a file name that are no text become escapes."""
    return text.encode(errors="backslashreplace").decode()
