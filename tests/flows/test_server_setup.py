"""`voco server setup` on a real server: what it makes, what it leaves alone, who is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import deployments
from flows.server_automations import NOTIFICATIONS, SILENT_RUNS, crash_silent_runs
from tests.support.prefect_site import Site, until
from tests.support.project import PROJECT
from tests.support.webhook import webhook
from voco_data.errors import InputError

pytestmark = pytest.mark.xdist_group("prefect")


def automations(site: Site) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in site.ask("/automations/filter")}


@pytest.fixture(scope="module")
def again(site: Site) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """A second set-up, after people have changed things: its summary, and what it told."""
    retrain = site.deployment("retrain")
    schedules = f"/deployments/{retrain['id']}/schedules"
    [monthly] = retrain["schedules"]
    site.api.patch(f"{schedules}/{monthly['id']}", json={"active": True}).raise_for_status()
    own = [{"schedule": {"cron": "0 5 * * *"}, "active": False}]  # made on the page: without a slug
    site.api.post(schedules, json=own).raise_for_status()
    site.api.patch("/work_pools/gpu", json={"concurrency_limit": 2}).raise_for_status()
    for worker in site.workers("gpu"):  # that other tests have started and stopped
        site.api.delete(f"/work_pools/gpu/workers/{worker['name']}").raise_for_status()
    silent = automations(site)[SILENT_RUNS]["id"]
    site.api.patch(f"/automations/{silent}", json={"enabled": False}).raise_for_status()
    with webhook() as (url, posted):
        words = ["--labels", "elsewhere.csv", "--root", "s3://bucket/stores", "--notify", url]
        yield site.voco("server", "setup", *words), posted
    for schedule in site.deployment("retrain")["schedules"]:
        site.api.delete(f"{schedules}/{schedule['id']}").raise_for_status()
    site.api.patch("/work_pools/gpu", json={"concurrency_limit": 1}).raise_for_status()
    site.api.patch(f"/automations/{silent}", json={"enabled": True}).raise_for_status()


Again = tuple[dict[str, Any], list[dict[str, Any]]]


def test_a_redeploy_changes_no_schedule(site: Site, again: Again) -> None:
    found = {s["schedule"]["cron"]: s["active"] for s in site.deployment("retrain")["schedules"]}
    assert found == {"0 3 1 * *": True, "0 5 * * *": False}
    [nightly] = site.deployment("preprocess")["schedules"]
    assert nightly["active"] is False


def test_what_people_have_set_stays(site: Site, again: Again) -> None:
    assert site.api.get("/work_pools/gpu").json()["concurrency_limit"] == 2
    assert automations(site)[SILENT_RUNS]["enabled"] is False


def test_there_is_one_of_everything(site: Site, again: Again) -> None:
    found = [automation["name"] for automation in site.ask("/automations/filter")]
    assert sorted(found) == sorted([SILENT_RUNS, NOTIFICATIONS])
    assert again[0]["automations"] == [SILENT_RUNS, NOTIFICATIONS]
    assert len(site.ask("/deployments/filter")) == len(again[0]["deployments"])


def test_paths_of_the_site_reach_all_flows_that_have_them(site: Site, again: Again) -> None:
    labels = str(site.folder / "elsewhere.csv")
    assert site.deployment("retrain")["parameters"]["labels"] == labels
    finetune = site.deployment("finetune")["parameters"]
    assert finetune == {"labels": labels, "store": "s3://bucket/stores"}
    assert site.deployment("pretrain")["parameters"] == {"stores": ["s3://bucket/stores"]}
    assert site.deployment("preprocess")["parameters"] == {
        "source": str(site.folder / "archive"),
        "root": "s3://bucket/stores",
        "wait": 3600,
        "skip_unchanged": True,
    }


def test_a_pool_without_a_worker_is_named(again: Again) -> None:
    [warning] = again[0]["warnings"]
    assert warning.startswith("no worker is online in the work pool gpu")


def test_a_failed_run_says_which_absolute_path_is_missing_and_somebody_is_told(
    site: Site, again: Again
) -> None:
    run = site.run("preprocess", source="nowhere")
    until(lambda: site.state(run) == "Failed", "the failure")
    [line] = site.api.get(f"/flow_runs/{run}").json()["state"]["message"].splitlines()
    assert f"{site.folder / 'nowhere'}: no such file or folder" in line
    told = until(lambda: again[1], "the notification")
    assert "Failed" in told[0]["subject"]
    assert str(site.folder / "nowhere") in told[0]["message"]


def test_a_silent_run_is_crashed_with_its_child(site: Site) -> None:
    """The automation with a shorter silence; Prefect's heartbeats are 30 s apart or more."""
    short = crash_silent_runs(name="test: short silence", silence_s=10)
    made = site.ask("/automations/", **short.model_dump(mode="json"))
    try:
        flow = site.ask("/flows/", name="killed")["id"]
        running = {"type": "RUNNING", "name": "Running"}
        parent, child = (
            site.ask("/flow_runs/", flow_id=flow, state=running)["id"] for _ in range(2)
        )
        silent_from = time.monotonic()
        site.api.post("/events", json=[heartbeat(parent), heartbeat(child)]).raise_for_status()
        for run in (parent, child):
            until(lambda run=run: site.state(run) == "Crashed", "the automation")  # type: ignore[misc]
        assert time.monotonic() - silent_from > 9  # not before its time
    finally:
        site.api.delete(f"/automations/{made['id']}").raise_for_status()


def heartbeat(run: str) -> dict[str, Any]:
    """The event that a run sends as a sign of life."""
    return {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
    }


# --- without a server --------------------------------------------------------------------------


def test_without_the_address_of_a_server_it_says_so_in_one_line(site: Site, tmp_path: Path) -> None:
    env = {name: value for name, value in site.env.items() if name != "PREFECT_API_URL"}
    alone = Site(tmp_path, env | {"PREFECT_HOME": str(tmp_path)}, site.api)
    for action in (["setup"], ["worker", "--pool", "cpu"]):
        [line] = alone.voco("server", *action, code=2)["errors"]
        assert "set PREFECT_API_URL=http://127.0.0.1:4200/api" in line


def test_a_folder_without_its_own_file_gets_that_of_the_clone(tmp_path: Path) -> None:
    assert deployments.find_file(tmp_path) == PROJECT / "prefect.yaml"
    (tmp_path / "prefect.yaml").touch()
    assert deployments.find_file(tmp_path) == tmp_path / "prefect.yaml"


def test_the_wheel_ships_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / deployments.SHIPPED
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    monkeypatch.setattr("flows.deployments.__file__", str(tmp_path / "lib" / "flows" / "x.py"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: {"data": str(tmp_path)}[name])
    assert deployments.find_file(tmp_path) == shipped
    text = (PROJECT / "pyproject.toml").read_text()
    assert f'"{deployments.SHIPPED.parent.as_posix()}" = ["prefect.yaml"]' in text


def test_paths_are_absolute_and_other_values_stay(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    content = {
        "definitions": {"site": {"source": "archive", "root": "stores"}},
        "deployments": [
            {"name": "a", "parameters": {"source": "archive", "root": "s3://bucket/x"}},
            {"name": "b", "parameters": {"source": "archive", "root": "stores"}},
            {"name": "c"},
        ],
    }
    file.write_text(yaml.safe_dump(content))
    read = deployments.read_deployments(file, tmp_path, {"root": "other"})
    assert [deployment["parameters"] for deployment in read["deployments"]] == [
        {"source": str(tmp_path / "archive"), "root": "s3://bucket/x"},
        {"source": str(tmp_path / "archive"), "root": str(tmp_path / "other")},
        {},
    ]


def test_a_file_that_is_no_prefect_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text("deployments: []\n")
    with pytest.raises(InputError, match=r"expected a prefect\.yaml with definitions\.site"):
        deployments.read_deployments(tmp_path / "prefect.yaml", tmp_path, {})


def test_heartbeats_are_sent_often_enough_for_the_automation() -> None:
    from flows.server_automations import HEARTBEAT_S, SILENCE_S

    content = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
    for deployment in content["deployments"]:
        env = deployment["work_pool"]["job_variables"]["env"]
        assert env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)
    assert SILENCE_S >= 3 * HEARTBEAT_S
    assert os.fspath(deployments.SHIPPED) == "share/voco/prefect.yaml"


def test_flows_are_deployed_without_torch() -> None:
    """Loading them takes seconds with it, and the machine of the server need not have it."""
    content = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
    modules = {d["entrypoint"].partition(":")[0] for d in content["deployments"]}
    program = f"import sys, {', '.join(sorted(modules))}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
