"""The state of a run on the server, as the process of the run sees it.

The server may be wrong, after it or the network was away. It takes a run for dead because no sign
of life has come, before the next one arrives. And a worker that could not reach the server for half
a minute does not hear any more that a run is cancelled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from platform import node
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Failed, Running

from flows.server_automations import SILENT

POLL_S = 5.0
"""Time between two looks at the state. A worker looks for runs of a freed slot every 10 s."""
UNHEARD_LOOKS = 2
"""Looks at which a run is Cancelling before it stops itself. Its worker stops it in a second."""
STILL_ALIVE = "The run is alive; the server or the network was away."
CANCELLED_HERE = "The run was cancelled."
MISSING_FOLDER = (
    "{folder}: no such folder on {machine}; make it there, or deploy again with `voco server setup "
    "--folder DIR` and a folder that all machines have"
)

log = logging.getLogger(__name__)


@contextmanager
def impatient_client() -> Iterator[SyncPrefectClient]:
    """A client that asks once, for 5 s."""
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": 5.0}) as client,
    ):
        yield client


def read(run_id: UUID) -> State | None:
    """The state of the run, or None if the server does not answer."""
    try:
        with impatient_client() as client:
            return client.read_flow_run(run_id).state
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("the state of the run cannot be read: %s", error)
        return None


def report(run_id: UUID, state: State) -> None:
    """Set the state of the run."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, state, force=True)


def can_begin(run_id: UUID) -> bool:
    """Tag a run with this machine and the version of voco; whether its folder is on this machine.

    A deployment names the folder of the machine that deployed it. On another machine it may be
    missing, and the run then fails with one line that says so.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(run_id)
        own = {f"host:{node()}", f"version:{version('voco')}"}
        client.update_flow_run(run_id, tags=sorted({*run.tags, *own}))
        if run.deployment_id is None:
            return True
        folder = _folder_of(client.read_deployment(run.deployment_id))
        if folder is None or folder.is_dir():
            return True
        failed: State = Failed(message=MISSING_FOLDER.format(folder=folder, machine=node()))
        client.set_flow_run_state(run_id, failed, force=True)
        return False


def _folder_of(deployment: DeploymentResponse) -> Path | None:
    """The folder in which runs of a deployment start."""
    for step in deployment.pull_steps or ():
        for name, inputs in step.items():
            if name.endswith(".set_working_directory"):
                return Path(inputs["directory"])
    return None


def watch(run_id: UUID) -> None:
    """Look at the state of the run and correct it, until it is cancelled and nobody stops it."""
    looks = 0
    while looks < UNHEARD_LOOKS:
        time.sleep(POLL_S)
        try:
            with impatient_client() as client:
                correct_states(client, run_id)
                state = client.read_flow_run(run_id).state
        except (httpx.HTTPError, PrefectException) as error:
            log.debug("the server is away: %s", error)  # the next look may find it back
            continue
        looks = looks + 1 if state is not None and state.is_cancelling() else 0


def correct_states(client: SyncPrefectClient, run_id: UUID) -> None:
    """Set this run and the runs in it to Running if the automation has set them to Crashed."""
    runs = [
        client.read_flow_run(run_id),
        *client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id])
            )
        ),
    ]
    for run in runs:
        if run.state and run.state.is_crashed() and SILENT in (run.state.message or ""):
            client.set_flow_run_state(run.id, Running(message=STILL_ALIVE), force=True)
