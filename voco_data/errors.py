"""The exception tree. Whatever a user can cause is one of these, and prints as one line.

VocoError            exit code 1: something went wrong that we can name
├── InputError       exit code 2: bad usage or input; nothing was written
├── StoreBusy        another run holds the store's lock, or took over our lease
├── StoreUnreachable an object store does not answer
├── StoreCorrupt     bytes on disk are not what was committed
└── SeriesRefused    one series cannot become a volume; a row of the ledger, never a crash
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from voco_data.reasons import Reason


class VocoError(Exception):
    """Base of every error that we raise on purpose; its text is one clear line."""

    exit_code = 1


class InputError(VocoError):
    """Bad usage or bad input: says what was expected, what came and what to do."""

    exit_code = 2


class StoreBusy(VocoError):
    """Another run holds the lock of a store for longer than we were told to wait."""


class StoreUnreachable(VocoError):
    """An object store does not answer, after several tries."""


class StoreCorrupt(VocoError):
    """A chunk, record or catalogue on disk does not match its checksum."""


class SeriesRefused(VocoError):
    """One series, or one file, that does not become a volume.

    `reason` is a code of the closed list in `voco_data.reasons`; `detail` is one line for a person.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[SeriesRefused], tuple[Reason, str]]:
        """Pickle by arguments: refusals travel back from worker processes."""
        return (type(self), (self.reason, self.detail))


_OF_THE_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ELOOP})
NO_MORE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
)
"""How a file system says that it takes no more."""


@contextmanager
def writing_under(root: object) -> Iterator[None]:
    """Name `root`, a path or a place, and what to do, where it takes no more."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_MORE:
            raise
        raise unwritable(root, error) from error


def unwritable(root: object, error: OSError) -> VocoError:
    """One line for a root that took no more: disk full, quota, read-only, no permission."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return VocoError(
        f"{root}: cannot be written ({why}); what is finished stays: free some space or give "
        "leave to write, then run again"
    )


def is_of_the_file(error: OSError) -> bool:
    """Whether a file itself is gone or cannot be read.

    Else it is this machine's trouble (no descriptor left, no memory, no leave to read), or the
    network's: the file may be sound.
    """
    return error.errno in _OF_THE_FILE


def unreadable(error: OSError, what: str) -> SeriesRefused:
    """IO_ERROR where the file system failed, UNREADABLE where a library says so of the bytes."""
    if error.errno is not None:
        return SeriesRefused(Reason.IO_ERROR, error.strerror or "the file system failed")
    return SeriesRefused(Reason.UNREADABLE, f"{what} ({type(error).__name__})")
