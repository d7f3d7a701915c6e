"""Where a root lies: a folder of this machine, or a prefix of a bucket.

A place holds objects under keys such as `volumes/zarr.json`. An object is whole or absent: it
appears, and is replaced, in one step. That is all that the store's protocol needs of it, so the
same protocol holds on a disk and in an object store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Lease(Protocol):
    """One writer's right to a place, while it is held."""

    @property
    def ended_well(self) -> bool:
        """Whether the writer before gave it back, so that it left nothing half-done."""

    def check(self) -> None:
        """Raise StoreBusy if the right was lost to another writer."""


@dataclass(frozen=True, slots=True)
class Leases:
    """Several leases as one, for what must not be done unless all of them hold."""

    leases: Sequence[Lease]

    @property
    def ended_well(self) -> bool:
        """Whether every writer before gave its lease back."""
        return all(lease.ended_well for lease in self.leases)

    def check(self) -> None:
        """Raise StoreBusy if one of them was lost."""
        for lease in self.leases:
            lease.check()


class ObjectReader(Protocol):
    """Objects that can be read."""

    def read(self, key: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError."""


class Storage(Protocol):
    """A folder of objects. Can be sent to another process."""

    @property
    def name(self) -> str:
        """Last part of the folder's name."""

    def __str__(self) -> str:
        """As a user would write it: a path, or a URL."""

    def __truediv__(self, folder: str) -> Storage:
        """The place below this one."""

    def read(self, key: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError."""

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Make or replace an object, in one step."""

    def remove(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def remove_folder(self, folder: str) -> None:
        """Remove all that lies below; nothing there is no error."""

    def touch(self, key: str) -> None:
        """Give an object another stamp, where that can be done without a write."""

    def size(self, key: str) -> int | None:
        """Bytes of an object, None where there is none."""

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Key and bytes of every object below a folder, in no order."""

    def stamps(self, folder: str, keys: Iterable[str]) -> Iterator[str]:
        """For each key below `folder` a text that changes when its object is written again.

        Empty where there is no object. Nothing is read.
        """

    def folders(self) -> Iterator[str]:
        """Names of the folders directly below, in no order."""

    def cached(self, folder: str) -> ObjectReader:
        """The objects below a folder, by their keys here, for one who reads many of them often."""

    def fetched(self, key: str) -> AbstractContextManager[Path]:
        """A file with the object's bytes, to be read only. Raises FileNotFoundError."""

    def replacing(self, key: str) -> AbstractContextManager[Path]:
        """A path to write a large object to; it becomes the object when the block ends well."""

    def exclusive(
        self, key: str, *, wait_seconds: float, tidies: bool = True
    ) -> AbstractContextManager[Lease]:
        """Be the one writer. Raises StoreBusy if another still is after `wait_seconds`.

        Not `tidies`: what a killed writer left stays for the next to put in order.
        """

    def guarded(self, lease: Lease, write_once: tuple[str, ...] = ()) -> Storage:
        """This storage for the one writer: once the lease is lost, writes raise StoreBusy.

        Objects whose keys begin with one of `write_once` are never replaced, so their versions need
        not be remembered.
        """

    def committing(self) -> AbstractContextManager[None]:
        """Around the writes of one commit. Raises StoreBusy if the worker's run is over."""

    def free_bytes(self) -> int | None:
        """What still fits here; None where nothing says."""

    def local(self) -> Path | None:
        """The folder on this machine, or None for a bucket."""
