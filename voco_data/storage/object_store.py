"""Storage in an object store: a prefix of a bucket, through obstore.

An object is created or replaced by one request, so a reader sees all of it or none of it, as with
a renamed file. Conditional requests ensure that one run at a time writes: see
`voco_data.storage.lease`.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from voco_data.errors import InputError, StoreBusy, StoreUnreachable
from voco_data.storage import scratch_db
from voco_data.storage.base import Lease, ObjectReader
from voco_data.storage.disk_cache import CachingReader
from voco_data.storage.lease import TaggedObject, hold_lease
from voco_data.storage.object_store_client import (
    RETRY_SECONDS,
    SERVICES,
    Access,
    open_client,
    translate_obstore_errors,
)
from voco_data.temporary_folders import temporary_folder

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import ObjectStore

PARTS_FROM_BYTES = 64 * 2**20
"""Larger objects are uploaded in parts, smaller ones by one request."""
KEYS_PER_PAGE = 1000
"""Keys in one answer of a listing: the maximum of S3."""
REMOVAL_TRIES = 10
"""Listings of a folder from which other runs remove objects too."""
ABSENT = ""
"""The tag that stands for an absent object."""

_BUCKET = re.compile(r"[\w.-]+", re.ASCII)
_answered: set[tuple[str, Access]] = set()
"""Buckets that have answered this process."""
_STAMPS = "CREATE TABLE stamps (key TEXT PRIMARY KEY, stamp TEXT) WITHOUT ROWID;"


@dataclass(frozen=True)
class ObjectStorage:
    """A prefix of a bucket as a `voco_data.storage.base.Storage`, which documents the methods.

    Docstrings here say only what is particular to an object store. A bucket is called container
    on Azure.
    """

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""
    access: Access = field(repr=False)

    @classmethod
    def from_url(cls, url: str) -> ObjectStorage:
        """The storage at `url`, with the access that the environment names. Raises InputError."""
        scheme = next(scheme for scheme in SERVICES if url.startswith(scheme))
        service = SERVICES[scheme]
        bucket, _, prefix = url.removeprefix(scheme).partition("/")
        parts = [part for part in prefix.split("/") if part]
        if (
            not _BUCKET.fullmatch(bucket)
            or any(part in (".", "..") for part in parts)
            or set("?#") & set(url)
        ):
            raise InputError(f"{url}: expected {service.url_form}")
        return cls(bucket, "/".join(parts), Access.from_environment(service))

    @property
    def name(self) -> str:
        """Last part of the prefix, or the bucket."""
        return self.prefix.rpartition("/")[2] or self.bucket

    def __str__(self) -> str:
        """The URL."""
        return f"{self.access.scheme}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def __truediv__(self, folder: str) -> ObjectStorage:
        """A longer prefix."""
        return ObjectStorage(self.bucket, self._full_key(folder), self.access)

    def read(self, key: str) -> bytes:
        """By one request."""
        try:
            with self._client(key) as client:
                answer = obstore.get(client, self._full_key(key))
        except FileNotFoundError:
            self._remember(key, ABSENT)
            raise
        self._remember(key, answer.meta["e_tag"])
        return bytes(answer.bytes())

    def write(self, key: str, data: bytes | memoryview, *, synced: bool = True) -> None:  # noqa: ARG002
        """By one request."""
        with self._client(key) as client:
            obstore.put(client, self._full_key(key), _as_bytes(data), use_multipart=False)

    def remove(self, key: str) -> None:
        """S3 accepts the removal of an object that does not exist, Azure does not."""
        with contextlib.suppress(FileNotFoundError), self._client(key) as client:
            obstore.delete(client, self._full_key(key))

    def remove_folder(self, folder: str) -> None:
        """By a listing, and one request for a thousand objects (256 on Azure)."""
        for remaining_tries in reversed(range(REMOVAL_TRIES)):
            keys = [self._full_key(key) for key, _, _ in self._list(folder)]
            if not keys:
                return
            try:
                with self._client(folder) as client:
                    obstore.delete(client, keys)
            except FileNotFoundError:  # on Azure, if another run removes them at the same time
                if not remaining_tries:
                    raise
            else:
                return

    def touch(self, key: str) -> None:
        """Do nothing: the ETag of an object cannot be changed without a write."""

    def stamps(self, folder: str, keys: Iterable[str]) -> Iterator[str]:
        """Size and ETag, from one listing that is kept on disk while the iterator is used."""
        remaining = iter(keys)
        for first_key in remaining:  # without keys, nothing is listed
            with scratch_db.scratch_tables(_STAMPS) as table:
                listed = ((key, f"{size} {tag}") for key, size, tag in self._list(folder))
                table.executemany("INSERT OR REPLACE INTO stamps VALUES (?, ?)", listed)
                for key in chain([first_key], remaining):
                    query = "SELECT stamp FROM stamps WHERE key = ?"
                    row = table.execute(query, (key,)).fetchone()
                    yield "" if row is None else row[0]

    def size(self, key: str) -> int | None:
        """By one request for the metadata."""
        try:
            with self._client(key) as client:
                meta = obstore.head(client, self._full_key(key))
        except FileNotFoundError:
            self._remember(key, ABSENT)
            return None
        self._remember(key, meta["e_tag"])
        return meta["size"]

    def last_written(self, key: str) -> datetime | None:
        """By one request for the metadata."""
        try:
            with self._client(key) as client:
                return obstore.head(client, self._full_key(key))["last_modified"].astimezone(UTC)
        except FileNotFoundError:
            return None

    def list_objects(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """By one request for a thousand objects."""
        for key, size, _ in self._list(folder):
            yield key, size

    def list_folders(self) -> Iterator[str]:
        """By one request for a thousand folders; objects inside them are not listed."""
        with self._client("") as client:
            listing = obstore.list_with_delimiter(client, self.prefix or None)
        for path in listing["common_prefixes"]:
            yield path.rpartition("/")[2]

    def cached_reader(self, folder: str) -> ObjectReader:
        """A reader that keeps copies by ETag in the cache of this machine. Costs a listing."""
        return CachingReader(self, {key: tag for key, _, tag in self._list(folder)})

    @contextmanager
    def as_file(self, key: str) -> Iterator[Path]:
        """A copy in the temporary folder, removed when the block ends."""
        with temporary_folder() as folder:
            path = folder / "object"
            with self._client(key) as client, path.open("wb") as file:
                answer = obstore.get(client, self._full_key(key))
                self._remember(key, answer.meta["e_tag"])
                for part in answer.stream():
                    file.write(part)
            yield path

    def local_folder(self) -> None:
        """None: not a folder."""

    @contextmanager
    def replacing(self, key: str) -> Iterator[Path]:
        """A path in the temporary folder; the object appears when its upload is complete."""
        with temporary_folder() as folder:
            path = folder / "object"
            yield path
            self._upload(key, path)

    def committing(self) -> AbstractContextManager[None]:
        """Never raises: STORE.md, "Object stores", says why a late commit does no harm."""
        return nullcontext()

    def as_readable(self) -> ObjectStorage:
        """This storage."""
        return self

    def lock(
        self, key: str, *, wait_seconds: float, repairs: bool = True
    ) -> AbstractContextManager[Lease]:
        """Hold a lease, which ends by itself if this process is killed."""
        return hold_lease(self, key, wait_seconds=wait_seconds, repairs=repairs)

    def with_lease(self, lease: Lease, write_once: tuple[str, ...] = ()) -> LeasedObjectStorage:
        """A storage that also checks each version that it replaces. Pickling drops the lease."""
        return LeasedObjectStorage(self.bucket, self.prefix, self.access, lease, write_once)

    def sync(self) -> None:
        """Do nothing: an object is durable when its request is answered."""

    def free_bytes(self) -> None:
        """None: object stores do not report it."""

    def read_tagged(self, key: str, timeout_s: float | None = None) -> TaggedObject | None:
        """An object with its ETag and date, or None. See `voco_data.storage.lease`."""
        try:
            with self._client(key, timeout_s) as client:
                answer = obstore.get(client, self._full_key(key))
                data, meta = bytes(answer.bytes()), answer.meta
        except FileNotFoundError:
            return None
        return TaggedObject(data, meta["e_tag"] or "", meta["last_modified"].timestamp())

    def put_if_match(
        self, key: str, data: bytes | memoryview, tag: str | None, timeout_s: float | None = None
    ) -> str | None:
        """Replace the version `tag` of an object. See `voco_data.storage.lease`.

        The client does not repeat such a request when its connection is lost, because it may have
        arrived. The object tells: it is repeated if that is still the version `tag`.
        """
        deadline = time.monotonic() + (timeout_s or RETRY_SECONDS)
        while True:
            try:
                return self._put_once(key, data, tag, timeout_s)
            except StoreUnreachable:
                there = self.read_tagged(key, timeout_s)  # waits until the server is back
                if there is not None and there.data == bytes(data):
                    return there.tag
                if tag != (None if there is None else there.tag):
                    return None
                if time.monotonic() >= deadline:
                    raise

    def _put_once(
        self, key: str, data: bytes | memoryview, tag: str | None, timeout_s: float | None
    ) -> str | None:
        mode: PutMode = "create" if tag is None else {"e_tag": tag}
        try:
            with self._client(key, timeout_s) as client:
                result = obstore.put(
                    client, self._full_key(key), _as_bytes(data), mode=mode, use_multipart=False
                )
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return None
        return result["e_tag"]

    def _remember(self, key: str, tag: str | None) -> None:
        """Do nothing. Called with every version that is read; LeasedObjectStorage keeps it."""

    def _upload(self, key: str, path: Path) -> None:
        with self._client(key) as client:
            obstore.put(
                client,
                self._full_key(key),
                path,
                use_multipart=path.stat().st_size > PARTS_FROM_BYTES,
            )

    def _list(self, folder: str) -> Iterator[tuple[str, int, str]]:
        """Key, size in bytes and ETag of every object below a folder."""
        prefix_length = len(self.prefix) + 1 if self.prefix else 0
        with self._client(folder) as client:
            for page in obstore.list(
                client, self._full_key(folder) or None, chunk_size=KEYS_PER_PAGE
            ):
                for meta in page:
                    yield meta["path"][prefix_length:], meta["size"], meta["e_tag"] or ""

    def _full_key(self, key: str) -> str:
        """The key in the bucket of the object that has `key` in this storage."""
        return f"{self.prefix}/{key}".strip("/")

    @contextmanager
    def _client(self, key: str, timeout_s: float | None = None) -> Iterator[ObjectStore]:
        """Yield the client for requests about `key`, and translate their errors."""
        with translate_obstore_errors(f"{self}/{key}".rstrip("/"), self.access.service):
            place = (self.bucket, self.access)
            yield open_client(*place, timeout_s, has_answered=place in _answered)
            _answered.add(place)


def _as_bytes(data: bytes | memoryview) -> bytes | memoryview:
    """`data` as a one-dimensional buffer, which obstore needs; volumes have their own shape."""
    return memoryview(data).cast("B") if isinstance(data, memoryview) else data


@dataclass(frozen=True)
class LeasedObjectStorage(ObjectStorage):
    """A storage of the run that holds the lease: it replaces only the versions that it has read.

    A run that lost its lease without knowing it, as when its machine was suspended, finds the
    versions of its successor, and its write fails.
    """

    lease: Lease
    write_once: tuple[str, ...] = ()
    """Prefixes of the keys of objects that are never replaced: their versions are not kept."""
    _tags: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """ETag of the last version that was read or written, by key."""

    def __reduce__(self) -> tuple[type[ObjectStorage], tuple[str, str, Access]]:
        """Workers get the storage without the lease: they replace nothing."""
        return (ObjectStorage, (self.bucket, self.prefix, self.access))

    def __truediv__(self, folder: str) -> LeasedObjectStorage:
        """A longer prefix under the same lease."""
        return LeasedObjectStorage(
            bucket=self.bucket,
            prefix=self._full_key(folder),
            access=self.access,
            lease=self.lease,
            write_once=self.write_once,
        )

    def write(self, key: str, data: bytes | memoryview, *, synced: bool = True) -> None:
        """Raises StoreBusy if the object is not the version that was read."""
        self.lease.check()
        known_tag = self._tags.get(key)
        if known_tag is None:
            super().write(key, data, synced=synced)
            return
        tag = self.put_if_match(key, data, None if known_tag == ABSENT else known_tag)
        if tag is None:
            current = self.read_tagged(key)
            if current is None or current.data != bytes(data):  # else only the answer was lost
                raise StoreBusy(f"{self}/{key}: another run has written here meanwhile; run again")
            tag = current.tag
        self._tags[key] = tag

    def remove(self, key: str) -> None:
        """Raises StoreBusy if the lease was lost."""
        self.lease.check()
        super().remove(key)
        self._remember_removal(key)

    def remove_folder(self, folder: str) -> None:
        """Raises StoreBusy if the lease was lost."""
        self.lease.check()
        super().remove_folder(folder)
        for key in self._tags:
            if key.startswith(f"{folder}/"):
                self._remember_removal(key)

    def _remember_removal(self, key: str) -> None:
        if key in self._tags:
            self._tags[key] = ABSENT

    def _remember(self, key: str, tag: str | None) -> None:
        if tag is not None and not key.startswith(self.write_once):
            self._tags[key] = tag

    def _upload(self, key: str, path: Path) -> None:
        if not path.stat().st_size:
            self.write(key, b"")
            return
        # A condition needs a single request; the file is mapped, not read into memory.
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            self.write(key, data)
