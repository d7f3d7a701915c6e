"""What the servers of tests of stores in buckets share: a process on a port, whose log is read."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

SECRET = "very-secret-text"
"""What no message may show."""
PATIENCE_S = 60.0

_REQUEST = re.compile(r'"(GET|PUT|HEAD|DELETE|POST) (\S+) HTTP')

azure_is_slow = pytest.mark.parametrize(
    "object_server",
    ["s3_server", pytest.param("azure_server", marks=pytest.mark.slow)],
    indirect=True,
    ids=["s3", "azure"],
)
"""For tests of code that is the same for both, whose requests other tests send to both."""


@dataclass(frozen=True)
class ObjectServer(ABC):
    """A server on a port of loopback, with one bucket. Its log is the record of every request."""

    endpoint: str
    log: Path

    root: ClassVar[str]
    """URL of the bucket."""
    endpoint_variable: ClassVar[str]
    """The variable of `environment` that names the endpoint."""
    secrets: ClassVar[tuple[str, ...]] = (SECRET,)

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What a user sets to work with it."""

    @abstractmethod
    def objects(self, prefix: str) -> dict[str, bytes]:
        """Every object below a prefix, by its key without the prefix."""

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of every request that has been answered."""
        return self.logged()

    def logged(self) -> list[tuple[str, str]]:
        """Method and path of every request in the log, which may be a little late."""
        return [(found[1], found[2]) for found in _REQUEST.finditer(self.log.read_text())]

    def methods(self) -> Counter[str]:
        """How many requests of each method."""
        return Counter(method for method, _ in self.requests())


def free_port() -> int:
    """A port of loopback that no program listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(
    words: Sequence[str | Path], port: int, log: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """Start a server that listens on `port` and logs to stdout; stop it at the end."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            words, stdout=sink, stderr=subprocess.STDOUT, env=os.environ | environment
        )
    try:
        _wait_until_open(port, process)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the server does not listen")


def use(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    """Set the environment of a user, and nothing that this machine brings."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in os.environ:
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
