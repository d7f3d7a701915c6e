"""A real Prefect server and workers on loopback, and a user's folder that deploys to the server.

The tests' process never imports Prefect for this: it types the commands of the documents and asks
the server's API.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.support import prefect_database as databases
from tests.support.project import PROJECT
from voco_data.phantom.cohort import CohortSpec, write_cohort

T = TypeVar("T")
PATIENCE_S = 120.0
"""Longest wait for anything; far above what is ever needed."""


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

    def voco(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Type a voco command in the site's folder; returns what it prints with --json.

        With another expected exit code, returns its lines on stderr as `errors`.
        """
        done = subprocess.run(
            [sys.executable, "-m", "flows.command", *words, "--json"],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        if code != 0:
            return {"errors": done.stderr.splitlines()}
        printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return printed

    def worker(self, pool: str, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """`voco server worker`, until the context ends."""
        words = ["server", "worker", "--pool", pool]
        return service(words, self.folder, self.env, log, module="flows.command")

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

    def workers(self, pool: str) -> list[dict[str, Any]]:
        """The workers of a pool that are online, or were until a while ago."""
        online = {"status": {"any_": ["ONLINE"]}}
        found: list[dict[str, Any]] = self.ask(f"/work_pools/{pool}/workers/filter", workers=online)
        return found

    def run(self, name: str, **parameters: Any) -> str:
        """Ask for a run of the deployment `name/name`; returns its id."""
        address = f"/deployments/{self.deployment(name)['id']}/create_flow_run"
        state = {"type": "SCHEDULED"}
        return str(self.ask(address, parameters=parameters, state=state)["id"])

    def complete(self, name: str, patience_s: float = PATIENCE_S, **parameters: Any) -> str:
        """Run the deployment `name/name` until it is Completed; returns the id of the run."""
        run = self.run(name, **parameters)
        ends = ("Completed", "Failed", "Crashed", "Cancelled")
        awaited = f"{name}, run {run}"
        state = until(
            lambda: found if (found := self.state(run)) in ends else None,
            awaited,
            patience_s=patience_s,
        )
        assert state == "Completed", f"{awaited} is {state}: {self.messages(run)}"
        return run

    def summary(self, run: str) -> dict[str, Any]:
        """The summary of a run, as the table on Prefect's page has it."""
        (table,) = (
            artifact["data"] for artifact in self.artifacts(run) if artifact["type"] == "table"
        )
        return {row["name"]: row["value"] for row in json.loads(table)}

    def state(self, run: str) -> str:
        """The name of the run's state, such as Running."""
        answer = self.api.get(f"/flow_runs/{run}")
        answer.raise_for_status()
        return str(answer.json()["state_name"])

    def states(self, run: str) -> list[str]:
        """The names of all states that the run has had, in order."""
        answer = self.api.get("/flow_run_states/", params={"flow_run_id": run})
        answer.raise_for_status()
        found = sorted(answer.json(), key=lambda state: state["timestamp"])
        return [str(state["name"]) for state in found]

    def cancel(self, run: str) -> None:
        """What the button Cancel of Prefect's page does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.ask(f"/flow_runs/{run}/set_state", state=state)

    def messages(self, run: str) -> str:
        """The log of a run as text."""
        return "\n".join(log["message"] for log in self.logs(run))

    def logs(self, run: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "/logs/filter", logs={"flow_run_id": {"any_": [run]}}
        )
        return found

    def artifacts(self, run: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}}
        )
        return found


@contextmanager
def server(folder: Path, database: Path) -> Iterator[Site]:
    """A server with an empty database, and a folder from which nothing is deployed yet."""
    site = prepare(folder, database)
    with site.api, running(site):
        yield site


def prepare(folder: Path, database: Path) -> Site:
    """The home and the folder of a server that is not started yet; its client must be closed."""
    env = quiet_environment(folder / "home", f"http://127.0.0.1:{free_port()}/api")
    make_site(folder / "site")
    databases.copy(database, folder / "home")
    return Site(folder / "site", env, client(env))


@contextmanager
def running(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """The server of a site, until the context ends; it may be started more than once."""
    port = site.env["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0]
    words = ["server", "start", "--host", "127.0.0.1", "--port", port]
    log = site.folder.with_name("server.log")
    with service(words, site.folder.parent, site.env, log) as process:
        until(lambda: answers(site.api), f"the server, see {log}")
        yield process


def until(
    attempt: Callable[[], T | None],
    awaited: str,
    *,
    every_s: float = 0.5,
    patience_s: float = PATIENCE_S,
) -> T:
    """Call `attempt` until its result is true."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        result = attempt()
        if result:
            return result
        time.sleep(every_s)
    pytest.fail(f"waited {patience_s:.0f} s for {awaited}")


@contextmanager
def service(
    words: list[str], folder: Path, env: dict[str, str], log: Path, module: str = "prefect"
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a module in a session of its own, gone with its group when the context ends."""
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=folder,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)  # does nothing to a process that has ended
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
