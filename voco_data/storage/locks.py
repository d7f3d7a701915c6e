"""Locks of a folder: one run at a time holds a store, and its workers alone commit to it.

A lock file is held with an advisory `flock`, which ends with its process. A worker of a cluster
may outlive its run, and the run after that. So the token of the current run is kept in a fence
file beside the lock. A worker commits while it shares the lock of the fence file, and only if the
file holds the token of its own run. The token is changed under an exclusive lock of the fence
file, at which time no commit is in progress.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from voco_data.errors import StoreBusy, VocoError
from voco_data.storage import atomic

COMMIT_WAIT_SECONDS = 10.0
"""A commit takes milliseconds; a worker that takes longer has been suspended."""
_LOCK_POLL_SECONDS = 0.2
_FENCE_POLL_SECONDS = 0.01
_TOKEN_BYTES = 8


@contextmanager
def hold_lock(
    path: Path, *, wait_seconds: float = 0.0, mode: int = 0o644, repairs: bool = True
) -> Iterator[bool]:
    """Hold the lock file `path`, and yield whether the previous holder ended without an error.

    The file holds the process id of its holder, and is empty after a block that ended without an
    exception. Without `repairs`, the id left by a holder that was killed is not cleared: the next
    holder still has to repair what it left. Raises StoreBusy if another process holds the lock
    for longer than `wait_seconds`.
    """
    atomic.make_folders(path.parent)
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        if not _lock_exclusively(descriptor, wait_seconds, _LOCK_POLL_SECONDS):
            holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            raise StoreBusy(
                f"{path.parent}: another run (process {holder}) is writing here; "
                "wait for it, or give --wait SECONDS"
            )
        is_clean = os.fstat(descriptor).st_size == 0
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        os.fsync(descriptor)  # after a power failure, too, the next holder must repair
        if is_new:
            atomic.sync(path.parent)
        yield is_clean
        if repairs or is_clean:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # releases the lock


@dataclass(frozen=True, slots=True)
class Fence:
    """The fence file of one store. Only the holder of the store's lock changes it."""

    path: Path

    @classmethod
    def of_lock(cls, lock: Path) -> Fence:
        """The fence of the lock file `lock`, beside it."""
        return cls(lock.with_suffix(".fence"))

    def revoke_token(self) -> None:
        """Let no worker commit. Raises StoreBusy if a commit in progress does not end."""
        if self.path.exists():
            with self._locked() as descriptor:
                os.ftruncate(descriptor, 0)

    def issue_token(self) -> str:
        """Return the token of a new run, whose workers alone may commit from now on."""
        token = secrets.token_hex(_TOKEN_BYTES)
        with self._locked() as descriptor:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, token.encode(), 0)
        return token

    @contextmanager
    def committing(self, token: str) -> Iterator[None]:
        """Enclose a commit of the run `token`. Raises StoreBusy if that run is over."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError as error:
            if not self.path.parent.is_dir():
                raise VocoError(
                    f"{self.path.parent}: not there on {socket.gethostname()}; every worker must "
                    "see the root under the same path"
                ) from error
            raise self._run_is_over() from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits at most for a change of the token
            if os.pread(descriptor, 4 * _TOKEN_BYTES, 0) != token.encode():
                raise self._run_is_over()
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock_exclusively(descriptor, COMMIT_WAIT_SECONDS, _FENCE_POLL_SECONDS):
                raise StoreBusy(
                    f"{self.path.parent}: workers of a run that is over have been writing here "
                    f"for {COMMIT_WAIT_SECONDS:g} s; end them, or wait for them"
                )
            yield descriptor
        finally:
            os.close(descriptor)

    def _run_is_over(self) -> StoreBusy:
        return StoreBusy(
            f"{self.path.parent}: the run that this worker belongs to is over; nothing was written"
        )


def _lock_exclusively(descriptor: int, wait_seconds: float, poll_seconds: float) -> bool:
    """Lock an open file; False if another process still holds it after `wait_seconds`."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(poll_seconds)
        else:
            return True
