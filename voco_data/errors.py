"""The exceptions of voco. Every error that a user can cause is one of them, and prints as one line.

VocoError            exit code 1: an error with a known cause
├── InputError       exit code 2: bad usage or bad input; nothing was written
├── StoreBusy        another run holds the lock of the store, or has taken over our lease
├── StoreUnreachable an object store does not answer
├── StoreCorrupt     bytes of a store do not match their checksum
└── SeriesRefused    a series cannot become a volume; recorded in the ledger, never ends a run
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from voco_data.reasons import Reason


class VocoError(Exception):
    """Base of all errors that voco raises; the text is one line."""

    exit_code = 1


class InputError(VocoError):
    """Bad usage or bad input. The text says what was expected, what was given and what to do."""

    exit_code = 2


class StoreBusy(VocoError):
    """Another run holds the lock of a store for longer than the time to wait."""


class StoreUnreachable(VocoError):
    """An object store does not answer after several tries."""


class StoreCorrupt(VocoError):
    """A chunk, record or catalogue on disk does not match its checksum."""


class SeriesRefused(VocoError):
    """A series, or a file, that cannot become a volume.

    `reason` is a code of the closed list in `voco_data.reasons`; `detail` is one line for a person.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[SeriesRefused], tuple[Reason, str]]:
        """Pickle by arguments: refusals travel back from worker processes."""
        return (type(self), (self.reason, self.detail))


_FILE_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ELOOP})
"""The file itself is missing or cannot be read."""
_UNWRITABLE_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
)
"""The file system does not accept a write."""


@contextmanager
def translate_unwritable(root: object) -> Iterator[None]:
    """Turn an OSError of a root that cannot be written into a VocoError that names `root`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE_ERRNOS:
            raise
        raise unwritable_error(root, error) from error


def unwritable_error(root: object, error: OSError) -> VocoError:
    """Make the error of a root that cannot be written, such as on a full disk."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    return VocoError(
        f"{root}: cannot be written ({cause}); what is finished stays: free some space or give "
        "grant write permission, then run again"
    )


def is_file_error(error: OSError) -> bool:
    """Whether `error` says that a file itself is missing or cannot be read.

    Otherwise the cause is this machine (no descriptor or memory left, no permission) or the
    network, and the file may be intact.
    """
    return error.errno in _FILE_ERRNOS


def unreadable_error(error: OSError, detail: str) -> SeriesRefused:
    """Make the refusal of a file that could not be read.

    The reason is IO_ERROR if the file system failed. If `error` has no number, a library raised
    it about the content of the file: the reason is UNREADABLE, and `detail` is the detail. The
    name of the exception says nothing to a user, and is not part of it.
    """
    if error.errno is not None:
        return SeriesRefused(Reason.IO_ERROR, error.strerror or "the file system failed")
    return SeriesRefused(Reason.UNREADABLE, detail)
