"""A Dask cluster of separate processes: a worker is killed in mid-run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos_archive import words
from tests.zygote import PROJECT, Zygote

pytestmark = [pytest.mark.xdist_group("kill"), pytest.mark.slow]


class Cluster:
    """A scheduler and two workers on loopback."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._log = (folder / "cluster").open("wb")
        port = self.address.rpartition(":")[2]
        plain = ["--no-dashboard"]
        self.scheduler = self._start("scheduler", "--host=127.0.0.1", f"--port={port}", *plain)
        options = ["--nthreads=1", "--no-nanny", f"--local-directory={folder}", *plain]
        self.workers = [self._start("worker", self.address, *options) for _ in range(2)]

    def _start(self, *line: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *line],
            cwd=PROJECT,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            stdout=self._log,
            stderr=self._log,
        )

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    zygote = Zygote()
    made = Chaos(tmp_path_factory.mktemp("kill"), zygote)
    made.prepare()
    yield made
    zygote.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("victim", ["worker"])
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_death_in_mid_run(chaos: Chaos, cluster: Cluster, victim: str, after: int) -> None:
    root = chaos.fresh_root("dask", "first")
    chaos.zygote.start(
        words(chaos.archives["first"], root, chaos.specs, "--dask", cluster.address), chaos.log
    )
    deadline = time.monotonic() + 60
    while len(list(root.glob("other*.zarr/volumes/records/*/*.json"))) < after:
        assert time.monotonic() < deadline, chaos.log.read_text()
        time.sleep(0.002)
    (cluster.workers[0] if victim == "worker" else cluster.scheduler).kill()
    code = chaos.zygote.end()
    said = chaos.log.read_text()
    if victim == "worker":
        assert code == 0, said
    else:
        assert code in (0, 1), said  # it may just have ended
    if code == 1:
        assert "Traceback" not in said, said
        assert (
            "voco preprocess: error: the Dask scheduler is gone"
            in said.replace("\r", "\n").splitlines()[-1]
        )
    chaos.check_resumes("first", root, said, shared=True)
