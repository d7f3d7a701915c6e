"""A PostgreSQL of our own on loopback, for Prefect servers that keep their records in one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.object_server import free_port


@dataclass(frozen=True)
class PostgreSQL:
    """A cluster in a temporary folder, with one database and without passwords."""

    binaries: Path
    port: int

    @property
    def url(self) -> str:
        """What Prefect's server takes as its database."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/postgres"

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
    made = PostgreSQL(binaries[-1], free_port())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        make = [made.binaries / "initdb", "--auth=trust", "--username=prefect", "-D", data]
        subprocess.run(make, user=user, check=True, capture_output=True, cwd=folder)
        words = [made.binaries / "postgres", "-D", data, "-k", folder, "-p", str(made.port)]
        process = subprocess.Popen(
            words, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield made
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            process.wait(timeout=15)
