"""Atomic writes of files: a file is written under a temporary name and renamed."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voco_data.storage.base import ReadableStorage

_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file of this name was made by `replacing`, and not renamed."""
    return _TEMPORARY.fullmatch(name) is not None


def write_bytes(path: Path, data: bytes | memoryview, *, mode: int = 0o644) -> None:
    """Write `data` to `path` so that a reader sees all of it or none of it.

    The rename is atomic on POSIX. There is no fsync: a killed process cannot leave a partial
    file, and a partial chunk after a power failure is found by its checksum.
    """
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` if the block succeeds.

    After an exception the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries_of(path: Path) -> None:
    """Remove the temporary files that `replacing` made for `path`, under a lock of the caller."""
    names = [temporary.name for temporary in path.parent.glob(f".{path.name}.*")]
    remove_temporaries(path.parent, names)


def sweep_store(storage: ReadableStorage) -> None:
    """Remove all temporary files of a store. The caller holds its lock."""
    folder = storage.local_folder()
    if folder is not None:
        sweep_folder(folder)


def sweep_folder(top: Path) -> None:
    """Remove all temporary files below a folder."""
    for folder, _, names in os.walk(top):
        remove_temporaries(Path(folder), names)


def remove_temporaries(folder: Path, names: list[str]) -> None:
    """Remove those files among `names` in a folder that are temporary."""
    for name in names:
        if is_temporary(name):
            (folder / name).unlink(missing_ok=True)
