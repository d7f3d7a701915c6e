"""A Dask scheduler and workers on loopback, each a process of its own that a test may kill."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tests.support.project import PROJECT

Gate = Literal["commit", "record"]
LIMIT_S = 60.0


class Cluster:
    """A scheduler and two workers of one thread each; a `gate` is in late_worker.py.

    `env` is added to the environment of their processes.
    """

    def __init__(
        self, folder: Path, gate: Gate | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self._env = folder, env or {}
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / "cluster"
        self._log = self.log.open("wb")
        port = self.address.rpartition(":")[2]
        plain = ["--no-dashboard"]
        self.scheduler = self._start("scheduler", "--host=127.0.0.1", f"--port={port}", *plain)
        options = ["--nthreads=1", "--no-nanny", f"--local-directory={folder}", *plain]
        if gate is not None:
            options += ["--preload", "tests.support.late_worker"]
        more = {"VOCO_GATE": str(folder), "VOCO_GATE_AT": gate or ""}
        self.workers = [self._start("worker", self.address, *options, **more) for _ in range(2)]

    def _start(self, *line: str, **more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *line],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), **self._env, **more},
            stdout=self._log,
            stderr=self._log,
        )

    def wait_for_late_workers(self) -> None:
        """Until one waits at the gate."""
        deadline = time.monotonic() + LIMIT_S
        while not list(self.folder.glob("waiting-*")):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)

    def open_gate(self) -> None:
        (self.folder / "open").touch()

    def refusals(self) -> list[str]:
        """What workers at the gate were told once it was open."""
        return [path.read_text() for path in self.folder.glob("refused-*")]

    def settle(self) -> None:
        """Until every worker has ended what it had in hand: it takes one task at a time."""
        from dask.distributed import Client

        with Client(self.address, timeout=LIMIT_S, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=LIMIT_S)
            for name in client.nthreads():
                client.submit(os.getpid, workers=[name], pure=False).result(LIMIT_S)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self._log.close()
