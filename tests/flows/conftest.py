"""Fixtures of the tests of flows: an embedded Prefect, and a Prefect server with a worker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import prefect_database as databases, prefect_site
from tests.support.prefect_site import Site


@pytest.fixture(scope="session")
def embedded(prefect_database: Path) -> Iterator[None]:
    """A Prefect of our own for the tests of flows; never the user's home or database."""
    from prefect.settings import (  # here: most tests of commands never import Prefect
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        get_current_settings,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    home = get_current_settings().home
    assert home.is_relative_to(tempfile.gettempdir()), "conftest.py sets PREFECT_HOME"
    without_heartbeats = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})  # 1 s a run

    def make_folder() -> str:
        folder = tempfile.mkdtemp()
        databases.copy(prefect_database, Path(folder), "prefect-test.db")
        return folder

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("prefect.testing.utilities.mkdtemp", make_folder)
        with prefect_test_harness(server_startup_timeout=120), without_heartbeats:
            yield


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Site]:
    """A server that is set up as in the README, and a worker for the pool `cpu`."""
    folder = tmp_path_factory.mktemp("prefect")
    with prefect_site.server(folder, prefect_database) as site:
        site.voco("server", "setup")
        with site.worker("cpu", folder / "worker.log"):
            prefect_site.until(lambda: site.workers("cpu"), "the worker of the pool cpu")
            yield site
