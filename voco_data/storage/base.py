"""The interface of a storage: objects under keys, in a folder or below a prefix of a bucket.

Keys are relative paths such as `volumes/zarr.json`. An object is created, and replaced, in one
step: a reader sees all of it or none of it. The store's protocol needs no more than that, so the
same protocol holds on a disk and in an object store.

Key types
---------
ReadableStorage : what a reader needs.
WritableStorage : what a worker needs, which commits volumes for a run.
LockableStorage : what a run needs to become the only one that writes.
Storage : all three, and the changes that only the run that holds the lock makes.
Lease : the right of a run to write, while it holds the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


class Lease(Protocol):
    """The right of one run to write, while it holds the lock."""

    @property
    def is_clean(self) -> bool:
        """Whether the previous holder ended without an error, so that nothing needs a repair."""

    def check(self) -> None:
        """Raise StoreBusy if another run has taken the lock over."""


@dataclass(frozen=True, slots=True)
class CombinedLease:
    """Several leases as one, which is lost as soon as one of them is lost."""

    leases: Sequence[Lease]

    @property
    def is_clean(self) -> bool:
        """Whether the previous holders of all leases ended without an error."""
        return all(lease.is_clean for lease in self.leases)

    def check(self) -> None:
        """Raise StoreBusy if one of the leases was lost."""
        for lease in self.leases:
            lease.check()


class ObjectReader(Protocol):
    """Objects that can be read by key."""

    def read(self, key: str) -> bytes:
        """Bytes of an object. Raises FileNotFoundError."""


class ReadableStorage(ObjectReader, Protocol):
    """A storage as a reader uses it. Can be pickled to another process."""

    @property
    def name(self) -> str:
        """Last part of the path or URL."""

    def __str__(self) -> str:
        """The path or URL, as a user writes it."""

    def __truediv__(self, folder: str) -> ReadableStorage:
        """The storage of a folder below this one."""

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, or None if there is no such object."""

    def last_written(self, key: str) -> datetime | None:
        """When an object was written last, in UTC, or None if there is no such object."""

    def list_objects(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Iterate over key and size in bytes of every object below `folder`, in no order."""

    def stamps(self, folder: str, keys: Iterable[str]) -> Iterator[str]:
        """Yield for each key below `folder` a text that changes when the object is written again.

        The text is empty if there is no object. No object is read.
        """

    def touch(self, key: str) -> None:
        """Change the stamp of an object, if the storage can do so without writing the object.

        The next run then verifies the object.
        """

    def list_folders(self) -> Iterator[str]:
        """Iterate over the names of the folders directly below, in no order."""

    def cached_reader(self, folder: str) -> ObjectReader:
        """Return a reader of the objects below `folder`, which may keep copies on this machine."""

    def as_file(self, key: str) -> AbstractContextManager[Path]:
        """Give the path of a read-only file with the bytes of an object, as a context manager.

        The path is valid inside the block. Raises FileNotFoundError.
        """

    def local_folder(self) -> Path | None:
        """The folder on this machine, or None for an object store."""


class WritableStorage(Protocol):
    """A storage as a worker uses it, to commit volumes for a run."""

    @property
    def name(self) -> str:
        """Last part of the path or URL."""

    def __str__(self) -> str:
        """The path or URL, as a user writes it."""

    def write(self, key: str, data: bytes | memoryview, *, synced: bool = True) -> None:
        """Create or replace an object in one step.

        If not `synced`, a power failure may damage it until `Storage.sync` has returned.
        """

    def committing(self) -> AbstractContextManager[None]:
        """Enclose the writes of one commit. Raises StoreBusy if the run of the worker is over."""

    def as_readable(self) -> ReadableStorage | None:
        """This storage for reading, or None if it keeps nothing of what is written."""

    def local_folder(self) -> Path | None:
        """The folder on this machine, or None for an object store."""


class LockableStorage(Protocol):
    """A storage whose locks ensure that one run at a time writes."""

    def lock(
        self, key: str, *, wait_seconds: float, repairs: bool = True
    ) -> AbstractContextManager[Lease]:
        """Hold the lock `key` during the block. Raises StoreBusy after `wait_seconds`.

        With `repairs` the caller repairs what a killed holder left, and the next lease is clean
        if the block ends without an exception. Without it, a lease that is not clean stays so.
        """

    def with_lease(self, lease: Lease, write_once: tuple[str, ...] = ()) -> Storage:
        """Return this storage, whose writes raise StoreBusy once `lease` is lost.

        Objects whose keys start with one of `write_once` are never replaced, so the storage does
        not remember their versions.
        """


class Storage(ReadableStorage, WritableStorage, LockableStorage, Protocol):
    """A storage as the run that holds its lock uses it."""

    @property
    def name(self) -> str:
        """Last part of the path or URL."""

    def __truediv__(self, folder: str) -> Storage:
        """The storage of a folder below this one."""

    def remove(self, key: str) -> None:
        """Remove an object, if it exists."""

    def remove_folder(self, folder: str) -> None:
        """Remove all objects below `folder`, if there are any."""

    def replacing(self, key: str) -> AbstractContextManager[Path]:
        """Give a path to write a large object to, as a context manager.

        The object is created or replaced when the block ends without an exception.
        """

    def sync(self) -> None:
        """Wait until all writes and removals so far will survive a power failure."""

    def free_bytes(self) -> int | None:
        """Free space in bytes, or None if it is not known."""
