"""From a path or a URL to the storage that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import overload

from voco_data.errors import InputError
from voco_data.storage.base import ReadableStorage, Storage

BUCKET_SCHEMES = ("s3://", "az://")
"""Supported object stores: the tests cover their conditional writes."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@overload
def open_storage(root: str | Path | Storage) -> Storage: ...


@overload
def open_storage(root: str | Path | ReadableStorage) -> ReadableStorage: ...


def open_storage(root: str | Path | ReadableStorage) -> ReadableStorage:
    """Open the storage at a path or a URL. Raises InputError for a URL that is not supported."""
    if isinstance(root, Path):
        return _open_folder(root)
    if isinstance(root, str):
        if is_url(root):
            return _open_bucket(root)
        return _open_folder(Path(root))
    return root


def parent_storage(store: str | Path) -> Storage:
    """Open the root that contains the store at a path or a URL."""
    if is_url(store):
        return open_storage(str(store).rstrip("/").rpartition("/")[0])
    return open_storage(Path(store).absolute().parent)


def is_url(path: str | Path) -> bool:
    """Whether this is a URL, supported or not."""
    return isinstance(path, str) and _URL.match(path) is not None


def path_or_url(text: str | Path) -> str | Path:
    """Return a URL as it is, anything else as a path. A path would lose one slash of `s3://`."""
    return text if is_url(text) else Path(text)


def _open_bucket(url: str) -> Storage:
    if not url.startswith(BUCKET_SCHEMES):
        raise InputError(
            f"{url}: expected a folder, s3://BUCKET/PREFIX or az://CONTAINER/PREFIX; "
            "other object stores are not supported"
        )
    # obstore is an extra: only those who use a bucket install it.
    try:
        from voco_data.storage.object_store import ObjectStorage
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise InputError(f"{url}: object stores need obstore: pip install 'voco[s3]'") from error
    return ObjectStorage.from_url(url)


def _open_folder(path: Path) -> Storage:
    from voco_data.storage.local import LocalStorage

    return LocalStorage(path)
