"""Chunks of a remote store as files of this machine, for training to read.

The name of a copy is the checksum of its volume, so it cannot be stale, and equal volumes share it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from voco_data.errors import StoreCorrupt
from voco_data.storage import SIZE_VARIABLE, LocalCache, ReadableStorage, user_cache

log = logging.getLogger(__name__)


class ChunkCache:
    """Local files of a store's chunks. Several threads and processes may use it at once."""

    def __init__(
        self,
        store: ReadableStorage,
        encoding: str,
        checksum_of: Callable[[bytes], str],
        cache: LocalCache | None = None,
    ) -> None:
        """`encoding` names how chunks are encoded.

        `checksum_of` computes the checksum of a chunk's volume from the bytes of the chunk.
        """
        self._store = store
        self._encoding = encoding
        self._checksum_of = checksum_of
        self._cache = cache or user_cache()

    def warn_if_small(self, total_bytes: int) -> None:
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

    def fetch(self, key: str, checksum: str) -> Path:
        """Return the file of a chunk whose volume has this checksum.

        The chunk is fetched and verified if it is not cached. Raises StoreCorrupt if the object is
        missing or its volume has another checksum. The file may be evicted at any time: on
        FileNotFoundError, call again.
        """
        name = self._name(checksum)
        if (path := self._cache.find(name)) is not None:
            return path
        try:
            data = self._store.read(key)
        except FileNotFoundError as error:
            raise StoreCorrupt("its chunk is missing") from error
        if self._checksum_of(data) != checksum:
            raise StoreCorrupt("its bytes do not match the checksum")
        return self._cache.add(name, data)

    def remove(self, checksum: str) -> None:
        """Remove the copy of the volume with this checksum."""
        self._cache.remove(self._name(checksum))

    def _name(self, checksum: str) -> str:
        return f"{checksum}-{self._encoding}"
