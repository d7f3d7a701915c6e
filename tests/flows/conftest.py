"""The Prefect server with a worker of the tests of flows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import prefect_site
from tests.support.prefect_site import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Site]:
    """A server that is set up as in the README, and a worker for the pool `cpu`."""
    folder = tmp_path_factory.mktemp("prefect")
    with prefect_site.server(folder, prefect_database) as site:
        site.voco("server", "setup")
        with site.worker("cpu", folder / "worker.log"):
            prefect_site.until(lambda: site.workers("cpu"), "the worker of the pool cpu")
            yield site
