"""From a path or a URL to the storage that it names."""

from __future__ import annotations

import re
from pathlib import Path

from voco_data.errors import InputError
from voco_data.storage.base import Storage

BUCKET_SCHEMES = ("s3://", "az://")
"""Object stores whose conditional writes are tested."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open_storage(root: str | Path | Storage) -> Storage:
    """The storage that a path or a URL names. Raises InputError for a URL of another kind."""
    if isinstance(root, Path):
        return _open_folder(root)
    if isinstance(root, str):
        if is_url(root):
            return _open_bucket(root)
        return _open_folder(Path(root))
    return root


def parent_storage(store: str | Path) -> Storage:
    """The storage that contains the store at a path or URL."""
    if is_url(store):
        return open_storage(str(store).rstrip("/").rpartition("/")[0])
    return open_storage(Path(store).absolute().parent)


def is_url(path: str | Path) -> bool:
    """Whether this is a URL, supported or not, and no path."""
    return isinstance(path, str) and _URL.match(path) is not None


def path_or_url(text: str | Path) -> str | Path:
    """A URL as it is, anything else as a path: a path would lose one slash of `s3://`."""
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
    return ObjectStorage.of(url)


def _open_folder(path: Path) -> Storage:
    from voco_data.storage.local import LocalStorage

    return LocalStorage(path)
