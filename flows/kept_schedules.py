"""A deploy that leaves schedules as they are: paused or not, and those that people have added."""

from __future__ import annotations

from functools import wraps
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleUpdate, DeploymentUpdate

_update_as_given = PrefectClient.update_deployment


@wraps(_update_as_given)
async def update_but_keep_schedules(
    client: PrefectClient, deployment_id: UUID, deployment: DeploymentUpdate
) -> None:
    """Prefect's update of a deployment that exists, without a change of any schedule's state.

    `active` of prefect.yaml is for the first deploy only. Schedules without a slug were made on
    Prefect's page, and an update would remove them.
    """
    if deployment.schedules is not None:
        existing = (await client.read_deployment(deployment_id)).schedules
        states = {schedule.slug: schedule.active for schedule in existing if schedule.slug}
        for schedule in deployment.schedules:
            if schedule.slug in states:
                schedule.active = states[schedule.slug]
        ours = {schedule.slug for schedule in deployment.schedules}
        if any(schedule.slug is None for schedule in existing):  # then the server replaces all
            deployment.schedules += [
                DeploymentScheduleUpdate(
                    schedule=schedule.schedule,
                    active=schedule.active,
                    parameters=schedule.parameters,
                    slug=schedule.slug,
                    max_scheduled_runs=schedule.max_scheduled_runs,
                )
                for schedule in existing
                if schedule.slug not in ours
            ]
    await _update_as_given(client, deployment_id, deployment)


def install() -> None:
    """Replace the client's update of deployments."""
    PrefectClient.update_deployment = update_but_keep_schedules  # type: ignore[method-assign, assignment]
