"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voco_data.storage.base import Storage

_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that `replacing` made, and did not move."""
    return _TEMPORARY.fullmatch(name) is not None


def write_bytes(path: Path, data: bytes | memoryview, *, mode: int = 0o644) -> None:
    """Write `data` to `path` so that a reader sees all of it or none of it.

    The rename is atomic on POSIX. There is no fsync: a killed process cannot tear the file, and
    a chunk that a power failure tore is caught by its checksum.
    """
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_bytes(path, text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; move it to `path` on success, remove it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep_store(storage: Storage) -> None:
    """Remove all temporary files below a store whose lock we hold."""
    store = storage.local()
    if store is not None:
        sweep_folder(store)


def sweep_folder(top: Path) -> None:
    """Remove all temporary files below a folder."""
    for folder, _, names in os.walk(top):
        remove_temporaries(Path(folder), names)


def remove_temporaries(folder: Path, names: list[str]) -> None:
    """Remove those of the files `names` in a folder that are temporary."""
    for name in names:
        if is_temporary(name):
            (folder / name).unlink(missing_ok=True)
