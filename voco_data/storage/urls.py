"""From a path or a URL to the storage that it names."""

from __future__ import annotations

from pathlib import Path

from voco_data.errors import InputError
from voco_data.storage.base import Storage

BUCKET_SCHEMES = ("s3://",)


def open_storage(where: str | Path | Storage) -> Storage:
    """The place that a path or a URL names."""
    if isinstance(where, Path):
        return _local(where)
    if isinstance(where, str):
        if where.startswith(BUCKET_SCHEMES):
            return _bucket(where)
        return _local(Path(where))
    return where


def parent_storage(store: str | Path) -> Storage:
    """The place that a store lies in."""
    if is_bucket_url(store):
        return open_storage(str(store).rstrip("/").rpartition("/")[0])
    return open_storage(Path(store).absolute().parent)


def is_bucket_url(where: str | Path) -> bool:
    """Whether this is the URL of an object store, and not a path."""
    return isinstance(where, str) and where.startswith(BUCKET_SCHEMES)


def path_or_url(text: str | Path) -> str | Path:
    """A URL as it is, anything else as a path: a path would lose one of the URL's slashes."""
    return text if is_bucket_url(text) else Path(text)


def _bucket(url: str) -> Storage:
    # A library of its own: only those who use a bucket install it.
    try:
        from voco_data.storage.object_store import ObjectStorage
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise InputError(f"{url}: object stores need obstore: pip install 'voco[s3]'") from error
    return ObjectStorage.of(url)


def _local(path: Path) -> Storage:
    from voco_data.storage.local import LocalStorage

    return LocalStorage(path)
