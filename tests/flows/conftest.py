"""Fixtures of the tests of flows: one embedded Prefect for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import prefect_database as databases


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
