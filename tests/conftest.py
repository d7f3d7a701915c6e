"""What several test files share: the folder of real CT files, and a quiet, private environment."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
from selenium import webdriver

import voco_models  # noqa: F401  sets how OpenMP waits, before any test imports torch
from tests.support import (
    azure_server as azure,
    browser,
    prefect_database as databases,
    s3_server as s3,
    undrawn,
)
from tests.support.azure_server import AzureServer
from tests.support.ct_learning import ct_learning_folder, make_ct_learning_store
from tests.support.object_server import ObjectServer
from tests.support.s3_server import S3Server
from tests.support.zygote import Zygote

# Before anything imports Prefect: its home, database and settings are the tests' own.
prefect_home = tempfile.mkdtemp(prefix="voco-tests-")
os.environ |= {
    "PREFECT_HOME": prefect_home,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}

_maker = os.getpid()


@atexit.register
def _remove_prefect_home() -> None:
    if os.getpid() == _maker:  # not in a forked child
        shutil.rmtree(prefect_home, ignore_errors=True)


if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: more threads would wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

undrawn.leave_plots_undrawn()

_set_preload = forkserver.set_forkserver_preload
# Worker processes of this process load the code of a series once; see `warm_worker.py`.
forkserver.set_forkserver_preload = lambda names: _set_preload(
    [*names, "tests.support.warm_worker"]
)

REPOSITORY = Path(__file__).parent.parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file with fixtures of the module in one process, and those of a zygote.

    Else each process makes these fixtures, which often are runs of several seconds.
    """
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("xdist_group"):
            continue
        if "zygote" in item._fixtureinfo.name2fixturedefs:
            item.add_marker(pytest.mark.xdist_group("zygote"))
            continue
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        if any(definitions[-1].scope == "module" for definitions in fixtures):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """Folder of real CT files with measured truths; not part of this repository."""
    folder = Path(os.environ.get("VOCO_REAL_CT", REPOSITORY.parent / "shared" / "ct"))
    if not (folder / "EXPECTED.json").is_file():
        pytest.skip(f"no real CT files at {folder}; set VOCO_REAL_CT to their folder")
    return folder


@pytest.fixture(scope="session")
def ct_learning_store(real_ct: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the real volumes to learn from, with their patients; one a test process."""
    folder = ct_learning_folder(real_ct)
    return make_ct_learning_store(folder, tmp_path_factory.mktemp("ct-learning"))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with one empty bucket, one a test process."""
    yield from s3.serve(tmp_path_factory.mktemp("s3"))


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """Azurite with one empty container, one a test process; skips where it is not installed."""
    yield from azure.serve(tmp_path_factory.mktemp("azure"))


@pytest.fixture(params=["s3_server", "azure_server"], ids=["s3", "azure"])
def object_server(request: pytest.FixtureRequest) -> ObjectServer:
    """Each of the object stores that voco supports."""
    server: ObjectServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """A process that forks runs of `voco`; one, as its tests are one group."""
    made = Zygote()
    yield made
    made.close()


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a new Prefect server, to be copied; one, as its tests are one group."""
    return databases.make(tmp_path_factory.mktemp("prefect-database"))


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
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A real browser, one a test process."""
    with browser.chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def drawn_plots() -> Iterator[None]:
    """Plots are drawn for the tests of a file; see `undrawn.py`."""
    with undrawn.drawing():
        yield


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """`main` sets up logging for its process, to a stderr that a test may have replaced: undo it.

    Before a test too, as fixtures of a module may have called it.
    """
    _reset_loggers()
    yield
    _reset_loggers()


def _reset_loggers() -> None:
    for name in ("voco_data", "voco_models", "flows"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.handlers, logger.propagate = [], True
