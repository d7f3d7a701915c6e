"""A real Prefect server and a worker on loopback: deploy all, run by name, see what they left.

This process never imports Prefect: it types the commands of the README and asks the server's API.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.support import prefect_database as databases
from tests.support.project import PROJECT
from voco_data.phantom.cohort import CohortSpec, write_cohort

pytestmark = pytest.mark.xdist_group("prefect")  # one server for the whole file

T = TypeVar("T")
FLOWS = (
    "demo", "evaluate", "experiment", "explain", "finetune", "localise", "localiser-demo",
    "predict", "preprocess", "pretrain", "project", "retrain",
)  # fmt: skip
PATIENCE_S = 120.0
"""Longest wait for anything; far above what is ever needed."""


COMMANDS = """
import sys
from prefect.cli import app

for line in sys.argv[1:]:
    sys.argv = ["prefect", *line.split()]
    try:
        app()
    except SystemExit as end:
        if end.code:
            raise
"""


class PatientTransport(httpx.HTTPTransport):
    """Asks again where the server says 503: its SQLite was busy with its own services.

    The server sends that on purpose ("database is locked") and Prefect's client asks again too.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request until something other than 503 comes back, for at most PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = super().handle_request(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            if time.monotonic() > deadline:
                return answer
            answer.close()
            time.sleep(1)


def client(env: dict[str, str]) -> httpx.Client:
    """A client of the server's API."""
    return httpx.Client(
        base_url=env["PREFECT_API_URL"], timeout=PATIENCE_S, transport=PatientTransport()
    )


@dataclass(frozen=True)
class Site:
    """A folder with prefect.yaml and an archive, and the server that it deploys to."""

    folder: Path
    env: dict[str, str]
    api: httpx.Client

    def prefect(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type a prefect command in the site's folder."""
        return subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def must(self, *lines: str) -> None:
        """Type commands that have to work, in one process: one takes seconds to start."""
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, *lines],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, path: str, **body: Any) -> Any:
        """POST to the server's API."""
        answer = self.api.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def deployment(self, name: str) -> dict[str, Any]:
        answer = self.api.get(f"/deployments/name/{name}/{name}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.ask(
            "/flow_runs/filter", deployments={"name": {"any_": [name]}}
        )
        return runs


def until(attempt: Callable[[], T | None], awaited: str) -> T:
    """Call `attempt` twice a second until its result is true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        result = attempt()
        if result:
            return result
        time.sleep(0.5)
    pytest.fail(f"waited {PATIENCE_S:.0f} s for {awaited}")


@contextmanager
def service(words: list[str], folder: Path, env: dict[str, str], log: Path) -> Iterator[None]:
    """A prefect process in a process group of its own, gone when the context ends."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            cwd=folder,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def quiet_environment(home: Path, api_url: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    scripts = sysconfig.get_path("scripts")  # as in an activated environment
    return own | {
        "PATH": os.pathsep.join((scripts, own.get("PATH", os.defpath))),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


def make_site(folder: Path) -> None:
    """What a user's folder holds: the deployments' file, the plugin switch, an archive."""
    folder.mkdir()
    for name in ("prefect.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder)
    spec = CohortSpec(patients=1, unlabelled=0, matrix=64, slices=24)
    write_cohort(spec, folder / "made-up").ratic.rename(folder / "archive")


def answers(api: httpx.Client) -> bool:
    try:
        return api.get("/ready").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Site]:
    """Server, pools, deployments and a worker for the `cpu` pool, as the README sets them up."""
    folder = tmp_path_factory.mktemp("prefect")
    port = free_port()
    env = quiet_environment(folder / "home", f"http://127.0.0.1:{port}/api")
    make_site(folder / "site")
    databases.copy(prefect_database, folder / "home")
    with ExitStack() as stack:
        api = stack.enter_context(client(env))
        site = Site(folder / "site", env, api)
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        stack.enter_context(service(words, folder, env, folder / "server.log"))
        until(lambda: answers(api), f"the server, see {folder / 'server.log'}")
        site.must(
            "work-pool create cpu --type process",
            "work-pool create gpu --type process",
            "work-pool set-concurrency-limit gpu 1",
            "--no-prompt deploy --all",
        )
        worker = env | {"PREFECT_PLUGINS_ENABLED": "false"}
        words = ["worker", "start", "--pool", "cpu", "--type", "process"]
        stack.enter_context(service(words, site.folder, worker, folder / "worker.log"))
        yield site


def test_the_plugin_is_installed() -> None:
    names = {point.name: point.value for point in entry_points(group="prefect.plugins")}
    assert names["voco_names"] == "flows.names"


def test_all_flows_are_deployed_to_their_pools(site: Site) -> None:
    deployments = site.ask("/deployments/filter")
    assert sorted(deployment["name"] for deployment in deployments) == sorted(FLOWS)
    pools = {name: site.deployment(name)["work_pool_name"] for name in FLOWS}
    assert {name for name, pool in pools.items() if pool == "cpu"} == {
        "demo",
        "localiser-demo",
        "preprocess",
    }
    assert set(pools.values()) == {"cpu", "gpu"}
    assert site.api.get("/work_pools/gpu").json()["concurrency_limit"] == 1


def test_parameters_reach_the_form(site: Site) -> None:
    schema = site.deployment("preprocess")["parameter_openapi_schema"]
    assert schema["required"] == ["source", "root"]
    layout = schema["properties"]["layout"]
    assert {"auto", "ratic", "flare", "dicom", "nifti", "totalsegmentator"} <= {*layout["enum"]}
    assert {"ids", "prune", "yes"} <= {*schema["properties"]}
    assert "laid out" in layout["description"]


@pytest.mark.parametrize(("name", "cron"), [("preprocess", "0 2 * * *"), ("retrain", "0 3 1 * *")])
def test_schedules_are_present_and_paused(site: Site, name: str, cron: str) -> None:
    [schedule] = site.deployment(name)["schedules"]
    assert schedule["schedule"]["cron"] == cron
    assert schedule["active"] is False
    assert not any(run["auto_scheduled"] for run in site.runs_of(name))


def test_the_users_literal_words_run_to_completed(site: Site) -> None:
    done = site.prefect("deployment", "run", "preprocess")
    assert done.returncode == 0, done.stdout + done.stderr

    def finished() -> dict[str, Any] | None:
        [run] = site.runs_of("preprocess")
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    run = until(finished, "the run")
    assert run["state_name"] == "Completed", messages_of(site, run)
    assert list((site.folder / "stores").glob("pretrain-*.zarr"))
    assert list((site.folder / "stores").glob("finetune-*.zarr"))
    kinds = {artifact["type"]: artifact for artifact in artifacts_of(site, run)}
    assert set(kinds) == {"table", "markdown"}  # Prefect stores a link as markdown
    assert "report" in kinds["markdown"]["data"]


def artifacts_of(site: Site, run: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.ask(
        "/artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}}
    )
    return found


def messages_of(site: Site, run: dict[str, Any]) -> str:
    logs = site.ask("/logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})
    return "\n".join(log["message"] for log in logs)


def test_parameters_are_those_of_the_run(site: Site) -> None:
    words = ["deployment", "run", "preprocess/preprocess", "--start-in", "2 hours"]
    done = site.prefect(*words, "-p", "root=elsewhere", "-p", 'specs=["pretrain"]')
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (run for run in site.runs_of("preprocess") if run["state_type"] == "SCHEDULED")
    assert run["parameters"]["root"] == "elsewhere"
    assert run["parameters"]["specs"] == ["pretrain"]
    site.api.delete(f"/flow_runs/{run['id']}").raise_for_status()


@pytest.mark.slow
def test_the_canonical_name_with_parameters_runs_to_completed(site: Site) -> None:
    done = site.prefect(
        "deployment",
        "run",
        "preprocess/preprocess",
        "--watch",
        "-p",
        f"source={site.folder / 'archive'}",
        "-p",
        f"root={site.folder / 'other'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((site.folder / "other").glob("pretrain-*.zarr"))


def test_an_unknown_name_is_one_clear_line(site: Site) -> None:
    done = site.prefect("deployment", "run", "preproces")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "No deployment is named preproces/preproces. Deployed: " + ", ".join(FLOWS)
    ]
    assert "Traceback" not in done.stdout


def test_a_bad_value_is_refused_before_a_run_exists(site: Site) -> None:
    before = len(site.runs_of("preprocess"))
    done = site.prefect("deployment", "run", "preprocess", "-p", "layout=tar")
    assert done.returncode == 1
    assert len(site.runs_of("preprocess")) == before


def test_a_schedule_that_is_switched_on_makes_runs(site: Site) -> None:
    deployment = site.deployment("retrain")
    [schedule] = deployment["schedules"]
    address = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
    site.api.patch(address, json={"active": True}).raise_for_status()
    runs = until(lambda: site.runs_of("retrain"), "scheduled runs")
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    site.api.patch(address, json={"active": False}).raise_for_status()


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A PostgreSQL of our own on loopback; its connection address without the driver."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("no PostgreSQL; install the packages of debian-packages.txt")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        make = [binaries[-1] / "initdb", "--auth=trust", "--username=prefect", "-D", data]
        subprocess.run(make, user=user, check=True, capture_output=True, cwd=folder)
        words = [binaries[-1] / "postgres", "-D", data, "-k", folder, "-p", str(port)]
        process = subprocess.Popen(
            words, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield f"prefect@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            process.wait(timeout=15)


def test_the_server_works_on_postgresql(postgresql: str, tmp_path: Path) -> None:
    """As in docker/compose.yaml: /ready says that the database answers."""
    port = free_port()
    env = quiet_environment(tmp_path / "home", f"http://127.0.0.1:{port}/api")
    env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"postgresql+asyncpg://{postgresql}"
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (
        service(words, tmp_path, env, tmp_path / "server.log"),
        client(env) as api,
    ):
        until(lambda: answers(api), f"the server, see {tmp_path / 'server.log'}")
        pool = {"name": "cpu", "type": "process"}
        api.post("/work_pools/", json=pool).raise_for_status()
        assert api.get("/work_pools/cpu").json()["type"] == "process"
    assert not (tmp_path / "home" / "prefect.db").exists()
