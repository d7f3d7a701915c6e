"""A deployment as a part of this flow run: its own work pool runs it, and this run waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Cancelling

from flows import job_state
from voco_data.errors import VocoError

log = logging.getLogger(__name__)

POLL_S = 5.0
"""Time between two looks at the state of the part."""
CANCELLED_WHOLE = "The run that this one is part of was cancelled."


def run_in_its_pool(deployment: str, parameters: Mapping[str, Any]) -> None:
    """Run a deployment, such as train/train, as a part of this flow run; wait until it has ended.

    A retry of this flow run waits for the part that still runs, and starts another one only if the
    last one did not complete. If this flow run is cancelled, the part is cancelled as well; if its
    worker is stopped, the part goes on. Raises VocoError if the part does not complete.
    """
    own = UUID(str(flow_run.id))
    tag = f"part-of:{own}"
    part = _find_last(tag)
    if part is None or (part.state and part.state.is_final() and not part.state.is_completed()):
        part = _start(deployment, parameters, tag)
    try:
        ended = _wait(part.id)
    except BaseException:  # such as the signal of a cancellation
        state = job_state.read(own)
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            _cancel(part.id)
        raise
    if ended.state is None or not ended.state.is_completed():
        described = "without a state" if ended.state is None else ended.state.name
        message = "" if ended.state is None else ended.state.message
        raise VocoError(
            f"{ended.name}, a run of {deployment}, ended {described}: {message}; mend that, and "
            "retry this run: it goes on from the last checkpoint"
        )


def _find_last(tag: str) -> FlowRun | None:
    """The flow run with a tag that was asked for last."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=1,
        )
    return found[0] if found else None


def _start(deployment: str, parameters: Mapping[str, Any], tag: str) -> FlowRun:
    """Ask for a run of a deployment."""
    started = run_deployment(deployment, parameters=dict(parameters), timeout=0, tags=[tag])
    assert isinstance(started, FlowRun)  # and no coroutine, as a synchronous flow calls this
    log.info("%s, a run of %s, is scheduled in its pool; waiting for it", started.name, deployment)
    return started


def _wait(run_id: UUID) -> FlowRun:
    """Wait for the end of a flow run, also while the server is away."""
    while True:
        try:
            with job_state.impatient_client() as client:
                run = client.read_flow_run(run_id)
            if run.state is not None and run.state.is_final():
                return run
        except (httpx.HTTPError, PrefectException) as error:
            log.debug("the server is away: %s", error)  # the next look may find it back
        time.sleep(POLL_S)


def _cancel(run_id: UUID) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelling(message=CANCELLED_WHOLE))
