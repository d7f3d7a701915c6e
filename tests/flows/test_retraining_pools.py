"""A retraining that trains in another pool: the flow `retrain` waits for the flow `train`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Failed, Running

from flows import other_pools
from flows.other_pools import run_in_its_pool
from tests.support.prefect_site import Site, until
from voco_data.errors import VocoError

pytestmark = pytest.mark.xdist_group("prefect")


# --- how one run waits for another -------------------------------------------------------------


class Part:
    """Runs of a deployment that nobody executes; the states are set by the test."""

    def __init__(self, client: SyncPrefectClient, deployment: UUID, name: str) -> None:
        self.client, self.deployment, self.name = client, deployment, name
        self.next_states: list[State] = []

    @property
    def runs(self) -> list[FlowRun]:
        found = self.client.read_flow_runs()
        return [run for run in found if run.deployment_id == self.deployment]

    def work(self, seconds: float) -> None:
        """In place of a wait between two looks: the next state of the last run."""
        del seconds
        (last,) = (run for run in self.runs if run.state and not run.state.is_final())
        self.client.set_flow_run_state(last.id, self.next_states.pop(0), force=True)


@pytest.fixture
def part(embedded: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Part]:
    @flow
    def learn() -> None:
        raise AssertionError("no worker is there")

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(learn)
        name = f"learn-{uuid4().hex[:8]}"
        deployment = client.create_deployment(flow_id=flow_id, name=name)
        part = Part(client, deployment, f"learn/{name}")
        monkeypatch.setattr(other_pools, "flow_run", SimpleNamespace(id=str(uuid4())))
        monkeypatch.setattr(other_pools.time, "sleep", part.work)
        yield part


def test_a_run_waits_until_its_part_is_completed(part: Part) -> None:
    part.next_states = [Running(), Running(), Completed()]
    run_in_its_pool(part.name, {})
    assert part.next_states == []
    (run,) = part.runs
    assert f"part-of:{other_pools.flow_run.id}" in run.tags


def test_a_part_that_failed_is_one_line_and_a_retry_starts_another_one(part: Part) -> None:
    part.next_states = [Failed(message="no labels"), Completed()]
    with pytest.raises(VocoError, match=r"ended Failed: no labels; mend that, and retry"):
        run_in_its_pool(part.name, {})
    run_in_its_pool(part.name, {})
    assert sorted(run.state_name or "" for run in part.runs) == ["Completed", "Failed"]


def test_a_retry_waits_for_the_part_that_still_runs(part: Part) -> None:
    part.next_states = [Running()]
    with pytest.raises(IndexError):  # the process of the run ends here
        run_in_its_pool(part.name, {})
    part.next_states = [Completed()]
    run_in_its_pool(part.name, {})
    run_in_its_pool(part.name, {})  # also when all is over
    assert len(part.runs) == 1


# --- on a server with a worker for the pool cpu, and none for the pool gpu ----------------------


def test_retrain_preprocesses_in_the_pool_cpu_and_trains_in_the_pool_gpu(site: Site) -> None:
    for worker in site.workers("gpu"):  # that other tests have started and stopped
        site.api.delete(f"/work_pools/gpu/workers/{worker['name']}")
    labels = site.folder / "labels.csv"
    shutil.copy(next((site.folder / "archive").rglob("train.csv")), labels)
    run = site.run(
        "retrain", root=str(site.folder / "kept"), labels=str(labels), pretrain_recipe="tiny",
        finetune_recipe="tiny",
    )  # fmt: skip

    def scheduled() -> dict[str, object] | None:
        found = site.runs_of("train")
        return found[0] if found else None

    part = until(scheduled, f"the part that trains; {run}")
    assert (part["work_pool_name"], part["state_name"]) == ("gpu", "Scheduled")
    parameters = part["parameters"]
    assert isinstance(parameters, dict)
    assert {"pretrain", "finetune"} == set(parameters["stores"])
    assert all((site.folder / "kept" / name).exists() for name in parameters["stores"].values())
    assert site.state(run) == "Running"
    site.cancel(run)
    until(lambda: site.state(run) == "Cancelled", "the end of the retraining")
    until(lambda: site.state(str(part["id"])) == "Cancelled", "the end of its part")
