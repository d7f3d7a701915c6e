"""A place in an object store: a prefix of an S3 bucket, spoken to through obstore.

An object is replaced by one request, so it is whole or absent as a file on disk is. One writer at
a time is ensured by conditional requests: see `voco_data.storage.lease`.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import S3Store

from voco_data.errors import InputError, StoreBusy
from voco_data.storage import scratch_db
from voco_data.storage.base import Lease, ObjectReader
from voco_data.storage.disk_cache import TaggedObjects
from voco_data.storage.lease import Tagged, hold_lease
from voco_data.storage.object_store_errors import translate_obstore_errors

SCHEME = "s3://"
DEFAULT_REGION = "us-east-1"
RETRIES = 6
RETRY_SECONDS = 60
REQUEST_SECONDS = 300
"""One request: a large catalogue over a slow line."""
PARTS_FROM_BYTES = 64 * 2**20
"""Larger objects go up in parts; what is smaller takes one request."""
ABSENT = ""
"""In place of an ETag: there was no object."""
PAGE = 1000
"""Keys in one answer of a listing: S3's most."""

_STAMPS = "CREATE TABLE stamps (key TEXT PRIMARY KEY, stamp TEXT) WITHOUT ROWID;"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an object store. Travels with a place to workers; never shown."""

    endpoint: str | None
    """None: Amazon's own."""
    region: str
    access_key_id: str | None = field(repr=False)
    """None: obstore finds the role of the machine or container."""
    secret_access_key: str | None = field(repr=False)
    session_token: str | None = field(repr=False)

    @classmethod
    def from_environment(cls) -> Access:
        """From the variables that other S3 tools read too. Raises InputError."""
        get = os.environ.get
        endpoint = get("AWS_ENDPOINT_URL_S3") or get("AWS_ENDPOINT_URL") or None
        if endpoint is not None and not endpoint.startswith(("https://", "http://")):
            raise InputError(
                f"AWS_ENDPOINT_URL: expected https://HOST or http://, got {endpoint!r}"
            )
        return cls(
            endpoint,
            get("AWS_REGION") or get("AWS_DEFAULT_REGION") or DEFAULT_REGION,
            get("AWS_ACCESS_KEY_ID") or None,
            get("AWS_SECRET_ACCESS_KEY") or None,
            get("AWS_SESSION_TOKEN") or None,
        )

    def client(self, bucket: str, patience_s: float | None = None) -> S3Store:
        """A client for one bucket. With `patience_s` a request gives up after so long."""
        given = {
            "endpoint": self.endpoint,
            "region": self.region,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "session_token": self.session_token,
        }
        # Plain http only where the user's own address says so.
        plain = self.endpoint is not None and self.endpoint.startswith("http://")
        config: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return S3Store(
            bucket,
            client_options={
                "allow_http": plain,
                "timeout": timedelta(seconds=patience_s or REQUEST_SECONDS),
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": timedelta(seconds=patience_s or RETRY_SECONDS),
            },
            **config,
        )


@lru_cache(maxsize=16)
def _client(bucket: str, access: Access, patience_s: float | None = None) -> S3Store:
    """One a process: it keeps connections open, and threads may share it."""
    return access.client(bucket, patience_s)


@dataclass(frozen=True)
class ObjectStorage:
    """A prefix of a bucket. See `voco_data.storage.base.Storage`."""

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""
    access: Access = field(repr=False)

    @classmethod
    def of(cls, url: str) -> ObjectStorage:
        """The place that `s3://bucket/prefix` names. Raises InputError."""
        bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        parts = [part for part in prefix.split("/") if part]
        if not bucket or any(part in (".", "..") for part in parts) or set("?#") & set(url):
            raise InputError(f"{url}: expected s3://BUCKET/PREFIX")
        return cls(bucket, "/".join(parts), Access.from_environment())

    @property
    def name(self) -> str:
        """Last part of the prefix, else the bucket's name."""
        return self.prefix.rpartition("/")[2] or self.bucket

    def __str__(self) -> str:
        """The URL."""
        return f"{SCHEME}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def __truediv__(self, folder: str) -> ObjectStorage:
        """The place below this one."""
        return ObjectStorage(self.bucket, self._full(folder), self.access)

    def read(self, key: str) -> bytes:
        """Bytes of an object."""
        try:
            with self._asking(key) as client:
                found = obstore.get(client, self._full(key))
        except FileNotFoundError:
            self._saw(key, ABSENT)
            raise
        self._saw(key, found.meta["e_tag"])
        return bytes(found.bytes())

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Make or replace an object by one request."""
        with self._asking(key) as client:
            obstore.put(client, self._full(key), _flat(data), use_multipart=False)

    def remove(self, key: str) -> None:
        """Remove an object; S3 says yes to one that is not there."""
        with self._asking(key) as client:
            obstore.delete(client, self._full(key))

    def remove_folder(self, folder: str) -> None:
        """Remove every object below, a thousand a request."""
        keys = [key for key, _, _ in self._listed(folder)]
        if keys:
            with self._asking(folder) as client:
                obstore.delete(client, [self._full(key) for key in keys])

    def touch(self, key: str) -> None:
        """Nothing: an object's stamp is that of its bytes."""

    def stamps(self, folder: str, keys: Iterable[str]) -> Iterator[str]:
        """Bytes and ETag of each object, from a listing that is kept on disk meanwhile."""
        remaining = iter(keys)
        for first in remaining:  # nothing is listed for nobody
            with scratch_db.scratch_tables(_STAMPS) as table:
                listed = ((key, f"{size} {tag}") for key, size, tag in self._listed(folder))
                table.executemany("INSERT OR REPLACE INTO stamps VALUES (?, ?)", listed)
                for key in chain([first], remaining):
                    query = "SELECT stamp FROM stamps WHERE key = ?"
                    found = table.execute(query, (key,)).fetchone()
                    yield "" if found is None else found[0]

    def size(self, key: str) -> int | None:
        """Bytes of an object."""
        try:
            with self._asking(key) as client:
                found = obstore.head(client, self._full(key))
        except FileNotFoundError:
            self._saw(key, ABSENT)
            return None
        self._saw(key, found["e_tag"])
        return found["size"]

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Key and bytes of every object below a folder, a thousand a request."""
        for key, size, _ in self._listed(folder):
            yield key, size

    def folders(self) -> Iterator[str]:
        """Names of the folders directly below, by one request a thousand."""
        with self._asking("") as client:
            found = obstore.list_with_delimiter(client, self.prefix or None)
        for path in found["common_prefixes"]:
            yield path.rpartition("/")[2]

    def cached(self, folder: str) -> ObjectReader:
        """The objects of a folder through the local cache: those that are here cost nothing.

        Costs a listing. An object is known by its ETag, so what was replaced is fetched anew.
        """
        return TaggedObjects(self, {key: tag for key, _, tag in self._listed(folder)})

    @contextmanager
    def fetched(self, key: str) -> Iterator[Path]:
        """A copy in the temporary folder, gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="voco-") as folder:
            path = Path(folder, "object")
            with self._asking(key) as client, path.open("wb") as file:
                found = obstore.get(client, self._full(key))
                self._saw(key, found.meta["e_tag"])
                for piece in found.stream():
                    file.write(piece)
            yield path

    @contextmanager
    def replacing(self, key: str) -> Iterator[Path]:
        """A path in the temporary folder; the object appears when its upload is complete."""
        with tempfile.TemporaryDirectory(prefix="voco-") as folder:
            path = Path(folder, "object")
            yield path
            self._upload(key, path)

    def exclusive(
        self, key: str, *, wait_seconds: float, tidies: bool = True
    ) -> AbstractContextManager[Lease]:
        """Hold a lease, which others can see and which ends by itself. See STORE.md."""
        return hold_lease(self, key, wait_seconds=wait_seconds, tidies=tidies)

    def guarded(self, lease: Lease, write_once: tuple[str, ...] = ()) -> LeasedObjectStorage:
        """This storage, written to only while `lease` holds. Pickling drops the guard."""
        return LeasedObjectStorage(self.bucket, self.prefix, self.access, lease, write_once)

    def committing(self) -> AbstractContextManager[None]:
        """Workers hold no lease: what they write late is the same, or is found. See STORE.md."""
        return nullcontext()

    def free_bytes(self) -> None:
        """Nobody says."""

    def local(self) -> None:
        """It lies elsewhere."""

    def tagged(self, key: str, patience_s: float | None = None) -> Tagged | None:
        """An object with its ETag and its date, or None."""
        try:
            with self._asking(key, patience_s) as client:
                found = obstore.get(client, self._full(key))
                data, meta = bytes(found.bytes()), found.meta
        except FileNotFoundError:
            return None
        return Tagged(data, meta["e_tag"] or "", meta["last_modified"].timestamp())

    def put_if(
        self, key: str, data: bytes | memoryview, tag: str | None, patience_s: float | None = None
    ) -> str | None:
        """Replace the object of this ETag, or make it if `tag` is None.

        Gives the new ETag, or None where the object is another one by now.
        """
        condition: Any = "create" if tag is None else {"e_tag": tag}
        try:
            with self._asking(key, patience_s) as client:
                done = obstore.put(
                    client, self._full(key), _flat(data), mode=condition, use_multipart=False
                )
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return None
        return done["e_tag"]

    def _saw(self, key: str, tag: str | None) -> None:
        """Told of every version that is read; the guarded place remembers."""

    def _upload(self, key: str, path: Path) -> None:
        with self._asking(key) as client:
            obstore.put(
                client,
                self._full(key),
                path,
                use_multipart=path.stat().st_size > PARTS_FROM_BYTES,
            )

    def _listed(self, folder: str) -> Iterator[tuple[str, int, str]]:
        """Key, bytes and ETag of every object below a folder."""
        skip = len(self.prefix) + 1 if self.prefix else 0
        with self._asking(folder) as client:
            for page in obstore.list(client, self._full(folder) or None, chunk_size=PAGE):
                for found in page:
                    yield found["path"][skip:], found["size"], found["e_tag"] or ""

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}".strip("/")

    @contextmanager
    def _asking(self, key: str, patience_s: float | None = None) -> Iterator[S3Store]:
        with translate_obstore_errors(f"{self}/{key}".rstrip("/")):
            yield _client(self.bucket, self.access, patience_s)


def _flat(data: bytes | memoryview) -> bytes | memoryview:
    """Volumes come in their own shape; obstore takes a row of bytes."""
    return memoryview(data).cast("B") if isinstance(data, memoryview) else data


@dataclass(frozen=True)
class LeasedObjectStorage(ObjectStorage):
    """The place of the one writer: what it replaces must still be what it saw there.

    A writer that lost its lease without knowing, say in a machine that stood still, meets the
    objects of its successor, and its write fails.
    """

    lease: Lease
    write_once: tuple[str, ...] = ()
    """Beginnings of the keys of objects that are never replaced: their versions are not kept."""
    _seen: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[ObjectStorage], tuple[str, str, Access]]:
        """Workers get the plain place: what they write is new."""
        return (ObjectStorage, (self.bucket, self.prefix, self.access))

    def __truediv__(self, folder: str) -> LeasedObjectStorage:
        """The place below, under the same lease."""
        return LeasedObjectStorage(
            self.bucket, self._full(folder), self.access, self.lease, self.write_once
        )

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Replace what was seen. Raises StoreBusy if it is not there any more."""
        self.lease.check()
        seen = self._seen.get(key)
        if seen is None:
            super().write(key, data)
            return
        tag = self.put_if(key, data, None if seen == ABSENT else seen)
        if tag is None:
            found = self.tagged(key)
            if found is None or found.data != bytes(data):  # else an answer to us was lost
                raise StoreBusy(f"{self}/{key}: another run has written here meanwhile; run again")
            tag = found.tag
        self._seen[key] = tag

    def remove(self, key: str) -> None:
        """Remove an object while the lease holds."""
        self.lease.check()
        super().remove(key)
        self._removed(key)

    def remove_folder(self, folder: str) -> None:
        """Remove every object below while the lease holds."""
        self.lease.check()
        super().remove_folder(folder)
        for key in self._seen:
            if key.startswith(f"{folder}/"):
                self._removed(key)

    def _removed(self, key: str) -> None:
        if key in self._seen:
            self._seen[key] = ABSENT

    def _saw(self, key: str, tag: str | None) -> None:
        if tag is not None and not key.startswith(self.write_once):
            self._seen[key] = tag

    def _upload(self, key: str, path: Path) -> None:
        if not path.stat().st_size:
            self.write(key, b"")
            return
        # Conditions need a single request; the file is mapped, not read into memory.
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            self.write(key, data)
