"""Temporary SQLite databases, private to a process, for tables that are too large for memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from voco_data.errors import VocoError

CACHE_KIB = 1024
"""Memory for the pages of one database; the rest is on disk."""


def open_scratch_db(schema: str) -> sqlite3.Connection:
    """A new, empty database with the tables of `schema`.

    A database without a name is a temporary file of SQLite in TMPDIR (else /var/tmp or /tmp). It
    is unlinked as soon as it is open, so a killed process leaves no file.
    """
    # One thread at a time uses a connection, though not always the one that opened it.
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    connection.executescript(
        f"PRAGMA cache_size=-{CACHE_KIB}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
        f"PRAGMA temp_store=FILE; {schema} BEGIN;"
    )
    return connection


@contextmanager
def scratch_tables(schema: str) -> Iterator[sqlite3.Connection]:
    """Open a database with `open_scratch_db`, and close it when the block ends.

    Raises VocoError if the temporary folder is full.
    """
    connection = open_scratch_db(schema)
    try:
        with translate_disk_full():
            yield connection
    finally:
        connection.close()


@contextmanager
def translate_disk_full() -> Iterator[None]:
    """Raise VocoError if SQLite finds that the temporary folder is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise VocoError(
            f"the temporary folder cannot take the index ({error}); "
            "set TMPDIR to a folder with more space"
        ) from error


def exists(connection: sqlite3.Connection, query: str, parameters: Sequence[object] = ()) -> bool:
    """Whether a query has any row; `query` begins with FROM, as in `FROM rows WHERE row = ?`."""
    (is_found,) = connection.execute(f"SELECT EXISTS (SELECT 1 {query})", parameters).fetchone()
    return bool(is_found)


def escape_undecodable(text: str) -> str:
    """Replace surrogates, which stand for undecodable bytes of a file name, by escapes.

    The result can be encoded as UTF-8.
    """
    return text.encode(errors="backslashreplace").decode()
