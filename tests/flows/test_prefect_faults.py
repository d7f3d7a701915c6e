"""Tests that take minutes, each with a server of its own: a long fault, the block of the README."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.flows.test_prefect_stops import ended, saved_step, train
from tests.support import postgresql, prefect_site
from tests.support.prefect_site import free_port, quiet_environment, until
from tests.support.project import PROJECT
from tests.support.run_processes import group_of
from tests.support.small_stores import make_store, random_volumes
from voco_models.training.history import HISTORY

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.slow, pytest.mark.timeout(900)]


END = "set -- $(jobs -p); kill -TERM $2 $3 && wait $2 && wait $3 && kill -TERM $1"
"""Workers end with exit code 0 when they are told to, also when they were started with `&`."""


def test_a_server_that_was_killed_for_minutes_finds_its_run_alive(
    tmp_path: Path, prefect_database: Path
) -> None:
    """Longer than the silence of the automation: it takes the run for dead, which corrects it.

    The worker does not hear of the cancellation any more: the run stops itself.
    """
    store = make_store(tmp_path / "stores", random_volumes(8, (4, 24, 24)))
    site, out = prefect_site.prepare(tmp_path, prefect_database), tmp_path / "run"
    with site.api:
        with prefect_site.running(site) as server:
            site.voco("server", "setup")
            worker = site.worker("gpu", tmp_path / "worker.log")
            worker.__enter__()
            run, group = train(site, store, out)
            until(lambda: heartbeats(site, run) >= 2, "a sign of life")
            os.killpg(server.pid, signal.SIGKILL)
        try:
            before = len((out / HISTORY).read_text().splitlines())
            time.sleep(110)
            assert len((out / HISTORY).read_text().splitlines()) > before  # it goes on
            with prefect_site.running(site):
                until(lambda: "Crashed" in site.states(run), "the automation")
                until(lambda: site.state(run) == "Running", "the run to say that it is alive")
                time.sleep(15)
                assert site.state(run) == "Running"
                site.cancel(run)
                until(ended(site, run, group), "the end of the run")
                assert site.states(run)[-2:] == ["Cancelling", "Cancelled"]
                assert saved_step(out) > 0
        finally:
            worker.__exit__(None, None, None)


def test_a_training_outlives_the_server_s_database(tmp_path: Path) -> None:
    """PostgreSQL is killed with all its processes, and comes back after a while."""
    store = make_store(tmp_path / "stores", random_volumes(8, (4, 24, 24)))
    out, port = tmp_path / "run", free_port()
    env = quiet_environment(tmp_path / "home", f"http://127.0.0.1:{port}/api")
    prefect_site.make_site(tmp_path / "site")
    with postgresql.running() as database:
        env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database.url
        with (
            prefect_site.client(env) as api,
            prefect_site.running(site := prefect_site.Site(tmp_path / "site", env, api)),
        ):
            site.voco("server", "setup")
            with site.worker("gpu", tmp_path / "worker.log"):
                run, group = train(site, store, out)
                until(lambda: heartbeats(site, run) >= 1, "a sign of life")
                seen = heartbeats(site, run)
                database.kill()
                before = len((out / HISTORY).read_text().splitlines())
                time.sleep(20)
                assert len((out / HISTORY).read_text().splitlines()) > before  # it goes on
                database.start()
                until(lambda: heartbeats(site, run) > seen, "the next sign of life")
                until(lambda: site.state(run) == "Running", "the run to say that it is alive")
                site.cancel(run)
                until(ended(site, run, group), "the end of the run")
                assert site.states(run)[-1] == "Cancelled"
                assert saved_step(out) > 0


def heartbeats(site: prefect_site.Site, run: str) -> int:
    """How many signs of life of a run the server has."""
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run}"]},
    }
    found: int = site.ask("/events/filter", filter=wanted)["total"]
    return found


def test_the_block_of_the_readme_works_when_it_is_pasted(
    tmp_path: Path, prefect_database: Path
) -> None:
    """With another port and other paths, in a folder like a clone's."""
    site = prefect_site.prepare(tmp_path, prefect_database)
    port = site.env["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0]
    section = (PROJECT / "README.md").read_text().split("## Prefect: schedules")[1]
    block = section.split("```sh\n")[1].split("```")[0]
    for there, here in (
        (":4200", f":{port}"),
        ("/data/ratic", str(site.folder / "archive")),
        ("/data/stores", str(tmp_path / "stores")),
    ):
        assert there in block
        block = block.replace(there, here)
    env = site.env | {"PREFECT_SERVER_API_PORT": port}
    with (tmp_path / "block.log").open("w") as log:
        shell = subprocess.Popen(
            ["bash", "-c", block + END],
            cwd=site.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            assert shell.wait(timeout=300) == 0, (tmp_path / "block.log").read_text()
        finally:
            for left in group_of(shell.pid):
                os.kill(left, signal.SIGKILL)
    assert "Flow run finished successfully" in (tmp_path / "block.log").read_text()
    assert len(list((tmp_path / "stores").glob("*.zarr"))) == 2
    site.api.close()
