"""Warnings about work pools in which nobody works: their runs are only scheduled."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
from prefect.client.schemas.objects import FlowRun, WorkerStatus

_create_run = PrefectClient.create_flow_run_from_deployment


async def idle_pool_warning(client: PrefectClient, pool: str) -> str | None:
    """What to do about a pool without a worker online; None if it has one."""
    online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
    if await client.read_workers_for_work_pool(pool, worker_filter=online):
        return None
    return (
        f"no worker is online in the work pool {pool}, so its runs wait; start one with "
        f"`voco server worker --pool {pool}`"
    )


@wraps(_create_run)
async def create_run_and_warn(
    client: PrefectClient, deployment_id: UUID, **options: Any
) -> FlowRun:
    """Prefect's request for a run, with a line on stderr if nobody would execute it."""
    run = await _create_run(client, deployment_id, **options)
    pool = (await client.read_deployment(deployment_id)).work_pool_name
    warning = await idle_pool_warning(client, pool) if pool else None
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)
    return run


def install() -> None:
    """Replace the client's request for a run of a deployment."""
    PrefectClient.create_flow_run_from_deployment = create_run_and_warn  # type: ignore[method-assign, assignment]
