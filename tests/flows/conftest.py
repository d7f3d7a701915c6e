"""One Prefect server for all test files that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import prefect_site
from tests.support.prefect_site import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Site]:
    """Server, pools and deployments as in the README, and a worker for the pool `cpu`."""
    folder = tmp_path_factory.mktemp("prefect")
    with prefect_site.server(folder, prefect_database) as site:
        site.must(
            "work-pool create cpu --type process",
            "work-pool create gpu --type process",
            "work-pool set-concurrency-limit gpu 1",
            "--no-prompt deploy --all",
        )
        worker = site.env | {"PREFECT_PLUGINS_ENABLED": "false"}
        words = ["worker", "start", "--pool", "cpu", "--type", "process"]
        with prefect_site.service(words, site.folder, worker, folder / "worker.log"):
            yield site
