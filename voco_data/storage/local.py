"""A place on this machine's disk: files that are whole or absent, and an advisory lock."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from voco_data.errors import StoreBusy
from voco_data.storage import atomic, locks
from voco_data.storage.base import Lease
from voco_data.storage.fence import Fence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """A folder. See `voco_data.storage.base.Storage`."""

    path: Path

    @property
    def name(self) -> str:
        """Last part of the folder's name."""
        return self.path.name

    def __str__(self) -> str:
        """The path."""
        return str(self.path)

    def __truediv__(self, folder: str) -> LocalStorage:
        """A folder below this one."""
        return LocalStorage(self.path / folder)

    def read(self, key: str) -> bytes:
        """Bytes of a file."""
        return (self.path / key).read_bytes()

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Make or replace a file by one rename."""
        atomic.write_bytes(self.path / key, data)

    def remove(self, key: str) -> None:
        """Remove a file if it is there."""
        (self.path / key).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder if it is there."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path / folder)

    def touch(self, key: str) -> None:
        """Set a file's times to now. One that we may only read keeps its own."""
        with contextlib.suppress(OSError):
            os.utime(self.path / key)

    def size(self, key: str) -> int | None:
        """Bytes of a file."""
        try:
            return (self.path / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Key and bytes of every file below a folder; a file that goes meanwhile is left out."""
        for where, _, names in os.walk(self.path / folder):
            for name in names:
                path = Path(where, name)
                key = path.relative_to(self.path).as_posix()
                if (size := self.size(key)) is not None:
                    yield key, size

    def stamps(self, folder: str, keys: Iterable[str]) -> Iterator[str]:  # noqa: ARG002
        """Size, times and inode of each file. Nobody can set the inode's time of change."""
        for key in keys:
            try:
                found = os.stat(self.path / key)  # noqa: PTH116  twice as fast as Path.stat
            except FileNotFoundError:
                yield ""
            else:
                yield f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"

    def folders(self) -> Iterator[str]:
        """Names of the folders directly below."""
        return (path.name for path in self.path.iterdir() if path.is_dir())

    def cached(self, folder: str) -> LocalStorage:  # noqa: ARG002
        """The folder itself: the system keeps what is read often in memory."""
        return self

    @contextmanager
    def fetched(self, key: str) -> Iterator[Path]:
        """The file itself."""
        path = self.path / key
        path.stat()
        yield path

    def replacing(self, key: str) -> AbstractContextManager[Path]:
        """A temporary file beside the one that it will replace."""
        return atomic.replacing(self.path / key)

    @contextmanager
    def exclusive(
        self, key: str, *, wait_seconds: float, tidies: bool = True
    ) -> Iterator[LocalLock]:
        """Hold a lock file, which its process cannot lose while it lives."""
        with locks.hold_lock(
            self.path / key, wait_seconds=wait_seconds, tidies=tidies
        ) as ended_well:
            fence = Fence((self.path / key).with_suffix(".fence"))
            fence.close()
            try:
                yield LocalLock(ended_well, fence)
            finally:
                _close_behind(fence)

    def guarded(self, lease: Lease, write_once: tuple[str, ...] = ()) -> LocalStorage:  # noqa: ARG002
        """The folder, whose workers may commit until the lock of one store is let go."""
        if not isinstance(lease, LocalLock):
            return self  # several stores are held to remove from them: no worker commits
        return FencedLocalStorage(self.path, lease.fence, lease.fence.open())

    def committing(self) -> AbstractContextManager[None]:
        """Belongs to no run, and is not held up."""
        return contextlib.nullcontext()

    def free_bytes(self) -> int:
        """Free space of the disk."""
        return shutil.disk_usage(self.path).free

    def local(self) -> Path:
        """The folder."""
        return self.path


@dataclass(frozen=True, slots=True)
class FencedLocalStorage(LocalStorage):
    """A folder as the workers of one run get it: they commit while the run lasts."""

    fence: Fence
    token: str

    def committing(self) -> AbstractContextManager[None]:
        """Commit in the block. Raises StoreBusy once the run is over."""
        return self.fence.passing(self.token)


@dataclass(frozen=True, slots=True)
class LocalLock:
    """A lock of this machine: it ends with its process, and no sooner."""

    ended_well: bool
    fence: Fence
    """Keeps out workers of earlier runs."""

    def check(self) -> None:
        """Nothing can take it away."""


def _close_behind(fence: Fence) -> None:
    """At the end of a run. Where that fails, the next run does it before it looks at anything."""
    try:
        fence.close()
    except (OSError, StoreBusy) as error:
        log.warning("workers of this run may still be writing (%s)", error)
