"""Chunks of a store that lies elsewhere, as files of this machine: what training reads.

A copy is named by the checksum of its volume, so it cannot be stale, and equal volumes share it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from voco_data.errors import StoreCorrupt
from voco_data.local_cache import LocalCache, user_cache
from voco_data.place import Place


class ChunkCache:
    """Yields a local path for a chunk; several threads and processes may ask at once."""

    def __init__(
        self,
        store: Place,
        encoding: str,
        checksum: Callable[[bytes], str],
        cache: LocalCache | None = None,
    ) -> None:
        """`encoding` names how chunks are written; `checksum` is that of a chunk's volume."""
        self._store = store
        self._encoding = encoding
        self._checksum = checksum
        self._cache = cache or user_cache()

    def file(self, key: str, expected: str) -> Path:
        """The chunk's file, fetched and checked if it is not here.

        Raises StoreCorrupt if the object is gone or its volume has another checksum. A file may
        go when others need the room: who opens it and finds none asks again.
        """
        name = self._name(expected)
        if (path := self._cache.find(name)) is not None:
            return path
        try:
            data = self._store.read(key)
        except FileNotFoundError as error:
            raise StoreCorrupt("its chunk is missing") from error
        if self._checksum(data) != expected:
            raise StoreCorrupt("its bytes do not match the checksum")
        return self._cache.keep(name, data)

    def drop(self, expected: str) -> None:
        """Forget a copy that turned out damaged."""
        self._cache.drop(self._name(expected))

    def _name(self, expected: str) -> str:
        return f"{expected}-{self._encoding}"
