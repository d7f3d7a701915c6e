"""Storage in a folder of this machine: files replaced by a rename, and an advisory lock."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from voco_data.errors import StoreBusy
from voco_data.storage import atomic, locks
from voco_data.storage.base import Lease
from voco_data.storage.locks import Fence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """A folder as a `voco_data.storage.base.Storage`, which documents the methods.

    Docstrings here say only what is particular to a folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def __str__(self) -> str:
        """The path."""
        return str(self.path)

    def __truediv__(self, folder: str) -> LocalStorage:
        """A folder below; it need not exist."""
        return LocalStorage(self.path / folder)

    def read(self, key: str) -> bytes:
        """Bytes of a file."""
        return (self.path / key).read_bytes()

    def write(self, key: str, data: bytes | memoryview, *, synced: bool = True) -> None:
        """Write a temporary file and rename it."""
        atomic.write_bytes(self.path / key, data, synced=synced)

    def remove(self, key: str) -> None:
        """Unlink a file; its folder stays."""
        (self.path / key).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Remove the folder itself too."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path / folder)

    def touch(self, key: str) -> None:
        """Set the times of a file to now, if this user may."""
        with contextlib.suppress(OSError):
            os.utime(self.path / key)

    def size(self, key: str) -> int | None:
        """Size from the inode."""
        try:
            return (self.path / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def last_written(self, key: str) -> datetime | None:
        """Time from the inode."""
        try:
            return datetime.fromtimestamp((self.path / key).stat().st_mtime, UTC)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list_objects(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Walk the folder, without files that are removed meanwhile."""
        for parent, _, names in os.walk(self.path / folder):
            for name in names:
                key = Path(parent, name).relative_to(self.path).as_posix()
                if (size := self.size(key)) is not None:
                    yield key, size

    def stamps(self, folder: str, keys: Iterable[str]) -> Iterator[str]:  # noqa: ARG002
        """Size, times and inode. No program can set the time of change of an inode."""
        for key in keys:
            try:
                status = os.stat(self.path / key)  # noqa: PTH116  twice as fast as Path.stat
            except FileNotFoundError:
                yield ""
            else:
                yield f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"

    def list_folders(self) -> Iterator[str]:
        """Names of the folders directly below."""
        return (path.name for path in self.path.iterdir() if path.is_dir())

    def cached_reader(self, folder: str) -> LocalStorage:  # noqa: ARG002
        """This storage: the page cache of the system is enough."""
        return self

    @contextmanager
    def as_file(self, key: str) -> Iterator[Path]:
        """The file itself."""
        path = self.path / key
        path.stat()
        yield path

    def local_folder(self) -> Path:
        """The folder."""
        return self.path

    def replacing(self, key: str) -> AbstractContextManager[Path]:
        """A temporary file beside the one that it replaces."""
        return atomic.replacing(self.path / key)

    def committing(self) -> AbstractContextManager[None]:
        """Never raises: this storage belongs to no run."""
        return contextlib.nullcontext()

    def as_readable(self) -> LocalStorage:
        """This storage."""
        return self

    @contextmanager
    def lock(self, key: str, *, wait_seconds: float, repairs: bool = True) -> Iterator[LocalLock]:
        """Hold a lock file, and keep workers of earlier runs from committing."""
        path = self.path / key
        with locks.hold_lock(path, wait_seconds=wait_seconds, repairs=repairs) as is_clean:
            fence = Fence.of_lock(path)
            fence.revoke_token()
            try:
                yield LocalLock(is_clean, fence)
            finally:
                _end_commits(fence)

    def with_lease(self, lease: Lease, write_once: tuple[str, ...] = ()) -> LocalStorage:  # noqa: ARG002
        """This folder, whose workers may commit until the lock is released."""
        if not isinstance(lease, LocalLock):
            return self  # a combined lease, which is held to remove objects: no worker commits
        return FencedLocalStorage(self.path, lease.fence, lease.fence.issue_token())

    def sync(self) -> None:
        """Synchronise the file system of the folder."""
        atomic.sync_filesystem(self.path)

    def free_bytes(self) -> int:
        """Free space of the disk."""
        return shutil.disk_usage(self.path).free


@dataclass(frozen=True, slots=True)
class FencedLocalStorage(LocalStorage):
    """A folder as the workers of one run use it. They may commit until the run is over."""

    fence: Fence
    token: str

    def committing(self) -> AbstractContextManager[None]:
        """Raises StoreBusy unless the fence file holds the token of this run."""
        return self.fence.committing(self.token)


@dataclass(frozen=True, slots=True)
class LocalLock:
    """The lease of a folder: a `flock`, which no other run can take over."""

    is_clean: bool
    """Whether the previous holder ended without an error."""
    fence: Fence
    """Keeps workers of earlier runs from committing."""

    def check(self) -> None:
        """Do nothing: the lock is held for as long as this process lives."""


def _end_commits(fence: Fence) -> None:
    """Revoke the token of this run, or warn: the next run revokes it before it reads anything."""
    try:
        fence.revoke_token()
    except (OSError, StoreBusy) as error:
        log.warning("workers of this run may still be writing (%s)", error)
