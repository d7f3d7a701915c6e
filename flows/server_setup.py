"""`voco server setup`: pools, deployments, automations and notifications of a Prefect server.

Nothing is asked, and a second call changes nothing that people have changed since: limits of pools,
states of schedules, paused automations.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows import deployments
from flows.idle_pools import idle_pool_warning
from flows.server_automations import (
    NOTIFICATIONS,
    SILENT_RUNS,
    crash_silent_runs,
    notify,
    put_automation,
)
from flows.worker import require_server
from voco_data.errors import InputError, VocoError
from voco_data.storage import is_url

POOLS: Final[dict[str, int | None]] = {"cpu": None, "gpu": 1}
"""Work pools, and how many runs each executes at once."""
SERVER_WAIT_S: Final = 60.0
"""Longest wait for a server that does not answer yet."""
WEBHOOK_BLOCK: Final = "voco-notifications"
WEBHOOK_CONTENT: Final = {"subject": "{{subject}}", "message": "{{body}}"}
NOBODY_IS_TOLD: Final = (
    "nobody is told of failed runs; give --notify URL, or --notify TYPE/NAME of a block"
)


def set_up(folder: Path, paths: Mapping[str, str], notify_by: str | None) -> dict[str, Any]:
    """Set the server up for the site in `folder`; returns what there is, and warnings.

    Parameters
    ----------
    folder : runs start here; relative paths are relative to it. Its prefect.yaml is deployed, if it
        has one.
    paths : paths of the site instead of the file's, by name; see `deployments.SITE_PATHS`.
    notify_by : a URL that takes a JSON object by POST, or TYPE/NAME of a block that notifies.

    Raises InputError without the address of a server, and for a block that does not exist;
    VocoError if the server does not answer.
    """
    address = require_server()
    file = deployments.find_file(folder)
    content = deployments.read_deployments(file, folder, paths)
    _wait_for_server(address)
    asyncio.run(_prepare(notify_by))
    names = deployments.deploy(content, folder)
    warnings = asyncio.run(_find_problems(content))
    automations = [SILENT_RUNS, *([NOTIFICATIONS] if notify_by else [])]
    return {
        "server": address,
        "deployments_file": file,
        "pools": dict(POOLS),
        "deployments": names,
        "automations": automations,
        "warnings": [*warnings, *([] if notify_by else [NOBODY_IS_TOLD])],
    }


def _wait_for_server(address: str) -> None:
    """Wait until the server answers: it may have been started a moment ago."""
    deadline = time.monotonic() + SERVER_WAIT_S
    with get_client(sync_client=True) as client:
        while client.api_healthcheck() is not None:
            if time.monotonic() > deadline:
                raise VocoError(f"{address}: no Prefect server answers; is it started?")
            time.sleep(1)


async def _prepare(notify_by: str | None) -> None:
    async with get_client() as client:
        block = None if notify_by is None else await _find_block(client, notify_by)
        for name, limit in POOLS.items():
            await _put_pool(client, name, limit)
        await put_automation(client, crash_silent_runs())
        if block is not None:
            await put_automation(client, notify(block))


async def _put_pool(client: PrefectClient, name: str, limit: int | None) -> None:
    """Create a work pool for processes; one that exists only gets a limit if it has none."""
    try:
        existing = await client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        await client.create_work_pool(
            WorkPoolCreate(
                name=name, type="process", base_job_template=template, concurrency_limit=limit
            )
        )
        return
    if existing.type != "process":
        raise InputError(f"work pool {name}: expected type process, it is of type {existing.type}")
    if limit is not None and existing.concurrency_limit is None:
        await client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


async def _find_block(client: PrefectClient, address: str) -> UUID:
    """The block that sends notifications. For a URL one is made."""
    if address.startswith(("http://", "https://")):
        webhook = CustomWebhookNotificationBlock.model_validate(
            {"name": "voco", "url": address, "json_data": WEBHOOK_CONTENT}
        )
        made: UUID = await webhook.asave(WEBHOOK_BLOCK, overwrite=True)
        return made
    kind, _, name = address.partition("/")
    try:
        return (await client.read_block_document_by_name(name, kind)).id
    except ObjectNotFound as error:
        raise InputError(
            f"--notify: expected a URL or TYPE/NAME of a block, found no block {address}; "
            "`prefect block ls` lists them"
        ) from error


async def _find_problems(content: Mapping[str, Any]) -> list[str]:
    """Warnings: pools without a worker, and an archive that is not on this machine."""
    async with get_client() as client:
        warnings = [await idle_pool_warning(client, pool) for pool in POOLS]
    sources = {
        deployment["parameters"]["source"]
        for deployment in content["deployments"]
        if "source" in deployment["parameters"]
    }
    missing = [
        f"{source}: no such archive on this machine; give --source, or make sure that the workers "
        "have it"
        for source in sorted(sources)
        if not is_url(source) and not Path(source).exists()
    ]
    return [warning for warning in warnings if warning is not None] + missing
