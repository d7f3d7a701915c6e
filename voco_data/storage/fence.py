"""Who may commit: the token of the run at work, in a file beside the lock of a folder's store.

A worker of a cluster may outlive its run, and the run that comes next. It commits while it shares
the lock of this file, and only if the file holds the token of its own run. Who changes the token
is alone with the file: then no commit is under way, and none of an earlier run will be.
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

PATIENCE_S = 10.0
"""A commit takes milliseconds; a worker that takes longer over it stands still."""
_POLL_SECONDS = 0.01
_TOKEN_BYTES = 8


@dataclass(frozen=True, slots=True)
class Fence:
    """The file of one store. It is changed by the holder of the store's lock alone."""

    path: Path

    def close(self) -> None:
        """Let no worker commit any more. Raises StoreBusy if one is at it and does not end."""
        if self.path.exists():
            with self._alone() as descriptor:
                os.ftruncate(descriptor, 0)

    def open(self) -> str:
        """Let the workers of a new run commit, and no others; gives the token of the run."""
        token = secrets.token_hex(_TOKEN_BYTES)
        with self._alone() as descriptor:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, token.encode(), 0)
        return token

    @contextmanager
    def passing(self, token: str) -> Iterator[None]:
        """Commit in the block, as a worker of the run `token`. Raises StoreBusy if it is over."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError as error:
            if not self.path.parent.is_dir():
                raise VocoError(
                    f"{self.path.parent}: not there on {socket.gethostname()}; every worker must "
                    "see the root under the same path"
                ) from error
            raise StoreBusy(_over(self.path)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a change of the token at most
            if os.pread(descriptor, 4 * _TOKEN_BYTES, 0) != token.encode():
                raise StoreBusy(_over(self.path))
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise StoreBusy(
                            f"{self.path.parent}: workers of a run that is over have been writing "
                            f"here for {PATIENCE_S:g} s; end them, or wait for them"
                        ) from None
                    time.sleep(_POLL_SECONDS)
            yield descriptor
        finally:
            os.close(descriptor)


def _over(path: Path) -> str:
    return f"{path.parent}: the run that this worker belongs to is over; nothing was written"
