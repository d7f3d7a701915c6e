"""Chunks of a remote store as files of this machine, for training to read.

A copy is named by the checksum of its volume: it cannot be stale, and equal volumes share it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from voco_data.errors import StoreCorrupt
from voco_data.storage import SIZE_VARIABLE, LocalCache, Storage, user_cache

log = logging.getLogger(__name__)


class ChunkCache:
    """Local files of a store's chunks. Several threads and processes may use it at once."""

    def __init__(
        self,
        store: Storage,
        encoding: str,
        checksum: Callable[[bytes], str],
        cache: LocalCache | None = None,
    ) -> None:
        """`encoding` names how chunks are encoded, `checksum` gives that of a chunk's volume."""
        self._store = store
        self._encoding = encoding
        self._checksum = checksum
        self._cache = cache or user_cache()

    def expect(self, total_bytes: int) -> None:
        """Warn if `total_bytes` of chunks do not fit in the cache."""
        if total_bytes > self._cache.limit_bytes:
            log.warning(
                "%s: %.1f GB of volumes, and a cache of %.1f GB: most are fetched again in every "
                "epoch; raise %s",
                self._store,
                total_bytes / 1e9,
                self._cache.limit_bytes / 1e9,
                SIZE_VARIABLE,
            )

    def file(self, key: str, expected: str) -> Path:
        """The file of a chunk whose volume has the checksum `expected`.

        Fetches and verifies the chunk if it is not cached. Raises StoreCorrupt if the object is
        missing or its volume has another checksum. The file may be evicted at any time: on
        FileNotFoundError, call again.
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
        """Remove the copy with the checksum `expected`, which turned out damaged."""
        self._cache.drop(self._name(expected))

    def _name(self, expected: str) -> str:
        return f"{expected}-{self._encoding}"
