"""Copies of remote objects on this machine: a folder of bounded size, shared by processes.

Names say what a copy holds (a checksum, an ETag), so a copy is never stale.
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
from typing import Protocol

import xxhash

from voco_data.errors import InputError
from voco_data.storage import atomic

FOLDER_VARIABLE = "VOCO_CACHE"
SIZE_VARIABLE = "VOCO_CACHE_GB"
MOST_BYTES = 100 * 10**9
FREE_SHARE = 0.5
"""Without a size of the user's: at most this share of what the disk has left for us."""
KEPT_SHARE = 0.9
"""Full down to which share it is emptied."""
STALE_S = 3600.0
"""Age of a half-written copy whose writer must be gone."""

_LOCK = ".used"


@dataclass(frozen=True)
class LocalCache:
    """Files by name; those that were not used for longest make room."""

    folder: Path
    limit_bytes: int

    def find(self, name: str) -> Path | None:
        """The copy of that name, which now counts as used, or None."""
        path = self._path(name)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def keep(self, name: str, data: bytes | memoryview) -> Path:
        """Make a copy, whole or not at all; others may make the same one meanwhile."""
        with self._counted() as used:
            total = used.read()
            if total + len(data) > self.limit_bytes:
                total = self._make_room(len(data))
            used.write(total + len(data))
            # Before others may count: they would not see it, and keep too many.
            path = self._path(name)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            atomic.write_bytes(path, data, mode=0o600)
        return path

    def drop(self, name: str) -> None:
        """Forget a copy."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _make_room(self, wanted: int) -> int:
        """Remove the copies that were not used for longest; gives the bytes that stay."""
        now, found = time.time(), []
        for where, _, names in os.walk(self.folder):
            for name in names:
                path = Path(where, name)
                if name == _LOCK:
                    continue
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                if not name.endswith(".tmp") or now - status.st_mtime > STALE_S:
                    found.append((status.st_mtime_ns, status.st_size, path))
        found.sort()
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total + wanted <= KEPT_SHARE * self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    @contextmanager
    def _counted(self) -> Iterator[_Used]:
        """The count of bytes, ours alone: processes and threads take turns."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield _Used(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Used:
    """Bytes in the cache, as its lock file says. Too many rather than too few."""

    descriptor: int

    def read(self) -> int:
        """The count; 0 in a new cache."""
        return int(os.pread(self.descriptor, 32, 0) or b"0")

    def write(self, count: int) -> None:
        """Fixed width: a shorter number leaves no digit behind."""
        os.pwrite(self.descriptor, b"%032d" % count, 0)


def user_cache() -> LocalCache:
    """The cache of this user, where and as large as the environment says."""
    if named := os.environ.get(FOLDER_VARIABLE):
        base = Path(named)
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "voco"
    folder = base / "objects"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: no cache can be made there ({error.strerror}); "
            f"name a folder of your own in {FOLDER_VARIABLE}"
        ) from error
    return LocalCache(folder, _limit(folder))


def _limit(folder: Path) -> int:
    text = os.environ.get(SIZE_VARIABLE)
    if not text:
        held = int((folder / _LOCK).read_bytes() or b"0") if (folder / _LOCK).exists() else 0
        return int(min(MOST_BYTES, FREE_SHARE * (shutil.disk_usage(folder).free + held)))
    try:
        wanted = float(text)
    except ValueError:
        wanted = 0.0
    if not 0 < wanted < float("inf"):
        raise InputError(f"{SIZE_VARIABLE}: expected gigabytes above 0, got {text!r}")
    return int(wanted * 1e9)


class _Remote(Protocol):
    def read(self, key: str) -> bytes: ...


class TaggedObjects:
    """Objects of a remote folder, known by ETag: each is fetched once by this machine."""

    def __init__(self, storage: _Remote, tags: Mapping[str, str]) -> None:
        self._place = storage
        self._tags = tags
        self._cache = user_cache()

    def read(self, key: str) -> bytes:
        """Bytes of an object. Raises FileNotFoundError."""
        if (tag := self._tags.get(key)) is None:
            raise FileNotFoundError(key)
        name = xxhash.xxh3_128_hexdigest(f"{self._place}/{key} {tag}".encode())
        try:
            if (path := self._cache.find(name)) is not None:
                return path.read_bytes()
        except FileNotFoundError:  # another process needed the room
            pass
        data = self._place.read(key)
        self._cache.keep(name, data)
        return data
