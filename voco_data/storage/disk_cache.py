"""Copies of remote objects on this machine: a folder of bounded size, shared by processes.

The name of a copy identifies its content by a checksum or an ETag, so no copy is ever stale.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash
from platformdirs import user_cache_path

from voco_data.errors import InputError
from voco_data.storage import atomic
from voco_data.storage.base import ObjectReader

FOLDER_VARIABLE = "VOCO_CACHE"
SIZE_VARIABLE = "VOCO_CACHE_GB"
DEFAULT_BYTES = 100 * 10**9
MAX_SHARE_OF_FREE = 0.5
"""The default size is at most this share of the free space of the disk."""
SHARE_AFTER_EVICTION = 0.9
"""Share of its size to which a full cache is reduced."""
STALE_S = 3600.0
"""Age of a temporary file whose writer must have been killed."""

_SIZE_FILE = ".used"
"""Lock file of the cache, which also holds its size."""


@dataclass(frozen=True)
class LocalCache:
    """Files by name. The least recently used ones are removed when the cache is full."""

    folder: Path
    limit_bytes: int

    def find(self, name: str) -> Path | None:
        """Return the path of a copy, or None, and mark the copy as used."""
        path = self._path(name)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def add(self, name: str, data: bytes | memoryview) -> Path:
        """Write a copy in one step. Other processes may write the same one at the same time."""
        with self._locked_size() as size:
            total = size.read()
            if total + len(data) > self.limit_bytes:
                total = self._evict(len(data))
            size.write(total + len(data))
            # Under the lock: a process that evicts now would not see the file, and would keep too
            # many others.
            path = self._path(name)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            atomic.write_bytes(path, data, mode=0o600)
        return path

    def remove(self, name: str) -> None:
        """Remove a copy, if it exists."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _evict(self, needed_bytes: int) -> int:
        """Remove the least recently used copies; returns the size of those that stay, in bytes."""
        now, copies = time.time(), []
        for parent, _, names in os.walk(self.folder):
            for name in names:
                path = Path(parent, name)
                if name == _SIZE_FILE:
                    continue
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                if not atomic.is_temporary(name) or now - status.st_mtime > STALE_S:
                    copies.append((status.st_mtime_ns, status.st_size, path))
        copies.sort()
        total = sum(size for _, size, _ in copies)
        for _, size, path in copies:
            if total + needed_bytes <= SHARE_AFTER_EVICTION * self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    @contextmanager
    def _locked_size(self) -> Iterator[_SizeFile]:
        """The recorded size, for one process and thread at a time."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / _SIZE_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield _SizeFile(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _SizeFile:
    """Size of the cache in bytes, recorded in its lock file; an upper bound."""

    descriptor: int

    def read(self) -> int:
        """The recorded size; 0 in a new cache."""
        return int(os.pread(self.descriptor, 32, 0) or b"0")

    def write(self, size: int) -> None:
        """Record a size, in fixed width so that a shorter number replaces all digits."""
        os.pwrite(self.descriptor, b"%032d" % size, 0)


def user_cache() -> LocalCache:
    """The cache of this user, as VOCO_CACHE and VOCO_CACHE_GB say. Raises InputError.

    The folder is `voco` in the user's cache folder by default.
    """
    configured = os.environ.get(FOLDER_VARIABLE)
    folder = (Path(configured) if configured else user_cache_path("voco")) / "objects"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: no cache can be made there ({error.strerror}); "
            f"name a folder of your own in {FOLDER_VARIABLE}"
        ) from error
    return LocalCache(folder, _limit_bytes(folder))


def _limit_bytes(folder: Path) -> int:
    text = os.environ.get(SIZE_VARIABLE)
    if not text:
        size_file = folder / _SIZE_FILE
        used = int(size_file.read_bytes() or b"0") if size_file.exists() else 0
        return int(min(DEFAULT_BYTES, MAX_SHARE_OF_FREE * (shutil.disk_usage(folder).free + used)))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise InputError(f"{SIZE_VARIABLE}: expected gigabytes above 0, got {text!r}")
    return int(gigabytes * 1e9)


class CachingReader:
    """An `ObjectReader` of remote objects that fetches each version once for this machine."""

    def __init__(self, storage: ObjectReader, tags: Mapping[str, str]) -> None:
        """`tags` are the ETags of the objects, by key."""
        self._storage = storage
        self._tags = tags
        self._cache = user_cache()

    def read(self, key: str) -> bytes:
        """Bytes of an object, from the cache if its ETag is the same. Raises FileNotFoundError."""
        if (tag := self._tags.get(key)) is None:
            raise FileNotFoundError(key)
        name = xxhash.xxh3_128_hexdigest(f"{self._storage}/{key} {tag}".encode())
        try:
            if (path := self._cache.find(name)) is not None:
                return path.read_bytes()
        except FileNotFoundError:  # another process evicted it
            pass
        data = self._storage.read(key)
        self._cache.add(name, data)
        return data
