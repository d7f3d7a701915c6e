"""A real Prefect server and a worker on loopback: deploy all, run by name, see what they left.

This process never imports Prefect: it types the commands of the README and asks the server's API.
"""

from __future__ import annotations

import platform
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from tests.support import postgresql
from tests.support.prefect_site import (
    Site,
    answers,
    client,
    free_port,
    quiet_environment,
    service,
    until,
)

pytestmark = pytest.mark.xdist_group("prefect")  # one server for the whole file

FLOWS = (
    "demo", "drift", "evaluate", "experiment", "explain", "finetune", "localise", "localiser-demo",
    "predict", "preprocess", "pretrain", "project", "retention", "retrain", "train",
)  # fmt: skip


def test_the_plugin_is_installed() -> None:
    names = {point.name: point.value for point in entry_points(group="prefect.plugins")}
    assert names["voco_names"] == "flows.names"


def test_all_flows_are_deployed_to_their_pools(site: Site) -> None:
    deployments = site.ask("/deployments/filter")
    assert sorted(deployment["name"] for deployment in deployments) == sorted(FLOWS)
    pools = {name: site.deployment(name)["work_pool_name"] for name in FLOWS}
    assert {name for name, pool in pools.items() if pool == "cpu"} == {
        "demo",
        "drift",
        "evaluate",
        "localiser-demo",
        "preprocess",
        "retrain",
        "retention",
    }
    assert set(pools.values()) == {"cpu", "gpu"}
    assert site.api.get("/work_pools/gpu").json()["concurrency_limit"] == 1


def test_parameters_reach_the_form(site: Site) -> None:
    schema = site.deployment("preprocess")["parameter_openapi_schema"]
    assert schema["required"] == ["source", "root"]
    layout = schema["properties"]["layout"]
    assert {"auto", "ratic", "flare", "dicom", "nifti", "totalsegmentator"} <= {*layout["enum"]}
    assert {"pretrain", "finetune"} <= {*schema["properties"]["specs"]["items"]["enum"]}
    recipe = site.deployment("pretrain")["parameter_openapi_schema"]["properties"]["recipe"]
    assert {"default", "tiny"} <= {*recipe["anyOf"][0]["enum"]}
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
    assert done.stderr == ""

    def finished() -> dict[str, Any] | None:
        [run] = site.runs_of("preprocess")
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    run = until(finished, "the run")
    assert run["state_name"] == "Completed", site.messages(run["id"])
    assert list((site.folder / "stores").glob("pretrain-*.zarr"))
    assert list((site.folder / "stores").glob("finetune-*.zarr"))
    kinds = {artifact["type"]: artifact for artifact in site.artifacts(run["id"])}
    assert set(kinds) == {"table", "markdown"}  # Prefect stores a link as markdown
    assert "report.html` on " in kinds["markdown"]["data"]
    assert "file://" not in str(kinds)
    assert run["name"] == "preprocess on archive → stores"
    assert {f"host:{platform.node()}", "voco", "cpu"} <= {*run["tags"]}
    loggers = {log["name"].partition(".")[0] for log in site.logs(run["id"])}
    assert "voco_data" in loggers
    assert loggers <= {"prefect", "voco_data", "voco_models"}  # no line a request of HTTP clients


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


def test_short_names_work_for_schedules(site: Site) -> None:
    done = site.prefect("deployment", "schedule", "ls", "preprocess")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 2 * * *" in done.stdout


def test_a_run_that_nobody_would_execute_is_warned_of(site: Site) -> None:
    values = ("-p", "run=x", "-p", "store=x", "-p", "out=x")
    done = site.prefect("deployment", "run", "explain", *values, "--start-in", "2 hours")
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("warning: no worker is online in the work pool gpu")
    (run,) = site.runs_of("explain")
    site.api.delete(f"/flow_runs/{run['id']}").raise_for_status()


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


def test_the_server_works_on_postgresql(tmp_path: Path) -> None:
    """As in docker/compose.yaml: /ready says that the database answers."""
    port = free_port()
    env = quiet_environment(tmp_path / "home", f"http://127.0.0.1:{port}/api")
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (
        postgresql.running() as database,
        service(
            words,
            tmp_path,
            env | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url},
            tmp_path / "server.log",
        ),
        client(env) as api,
    ):
        until(lambda: answers(api), f"the server, see {tmp_path / 'server.log'}")
        pool = {"name": "cpu", "type": "process"}
        api.post("/work_pools/", json=pool).raise_for_status()
        assert api.get("/work_pools/cpu").json()["type"] == "process"
    assert not (tmp_path / "home" / "prefect.db").exists()
