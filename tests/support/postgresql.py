"""A PostgreSQL of our own on loopback, for Prefect servers that keep their records in one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.object_server import free_port

PATIENCE_S = 60.0
"""Longest wait for a start or an end; far above what is ever needed."""


@dataclass
class PostgreSQL:
    """A cluster in a temporary folder, with one database and without passwords."""

    binaries: Path
    port: int
    folder: Path
    user: str | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What Prefect's server takes as its database."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Serve the database, and wait until it answers."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process is None or not self._answers():
            assert time.monotonic() < deadline, f"PostgreSQL does not answer on port {self.port}"
            if self.process is None or self.process.poll() is not None:
                words = [self.binaries / "postgres", "-D", self.folder / "data", "-k", self.folder]
                self.process = subprocess.Popen(
                    [*words, "-p", str(self.port)],
                    user=self.user,
                    cwd=self.folder,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            time.sleep(0.5)

    def kill(self) -> None:
        """Kill the server and its processes, as a machine that loses its power."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE_S)
        self.process = None

    def stop(self) -> None:
        """End the server, if it runs."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # its fast shutdown
            self.process.wait(timeout=15)

    def _answers(self) -> bool:
        words = ["--host=127.0.0.1", f"--port={self.port}", "--quiet"]
        return subprocess.run([self.binaries / "pg_isready", *words], check=False).returncode == 0

    def ask(self, query: str) -> list[str]:
        """The lines that psql prints for a query."""
        words = ["--host=127.0.0.1", f"--port={self.port}", "--username=prefect", "postgres"]
        done = subprocess.run(
            [self.binaries / "psql", *words, "--tuples-only", "--no-align", "--command", query],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.splitlines()


@contextmanager
def running() -> Iterator[PostgreSQL]:
    """Make a cluster and serve it until the context ends; skips where it is not installed."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("no PostgreSQL; install the packages of debian-packages.txt")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory() as name:
        made = PostgreSQL(binaries[-1], free_port(), Path(name), user)
        if user:
            shutil.chown(made.folder, user)
        words = ["--auth=trust", "--username=prefect", "-D", made.folder / "data"]
        make = [made.binaries / "initdb", *words]
        subprocess.run(make, user=user, check=True, capture_output=True, cwd=made.folder)
        try:
            made.start()
            yield made
        finally:
            made.stop()
