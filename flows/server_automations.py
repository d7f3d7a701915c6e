"""Automations of the server: silent runs are Crashed, and somebody is told of failures."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

HEARTBEAT_S: Final = 30
"""Time between two signs of life of a run, set in prefect.yaml for all jobs; Prefect's least."""
SILENCE_S: Final = 90
"""A run is Crashed after such a time without an event. Three heartbeats: one may be late."""
SILENT: Final = "No sign of life for"
"""Begins the message of a run that is Crashed for this reason; `job_engine.py` looks for it."""
SILENT_RUNS: Final = "voco: runs without a sign of life are Crashed"
NOTIFICATIONS: Final = "voco: tell of runs that failed, crashed or are late"
DRIFT: Final = "Drift"
"""State of a finished run of the flow `drift` with alarms, of the type Completed."""
TOLD_OF: Final = ("Failed", "Crashed", "Late", DRIFT)
"""States of which a notification is sent."""
MESSAGE: Final = (
    "{{ flow.name }}/{{ flow_run.name }} is {{ flow_run.state.name }}: "
    "{{ flow_run.state.message }} {{ flow_run|ui_url }}"
)
SUBJECT: Final = "voco: {{ flow_run.name }} is {{ flow_run.state.name }}"


def crash_silent_runs(*, name: str = SILENT_RUNS, silence_s: float = SILENCE_S) -> AutomationCore:
    """Set a run to Crashed when it sends no event for `silence_s` after a heartbeat.

    A run whose whole process tree was killed would stay Running for ever, and with it the slot of
    its pool. A parent run and the runs in it each have their own heartbeat.
    """
    return AutomationCore(
        name=name,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_s),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                force=False,
                state=StateType.CRASHED,
                message=f"{SILENT} {silence_s:g} s: the process was killed, or the "
                "machine is down or cut off.",
            )
        ],
    )


def notify(block: UUID) -> AutomationCore:
    """Send a notification through a block for each run of a deployment in one of `TOLD_OF`."""
    return AutomationCore(
        name=NOTIFICATIONS,
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in TOLD_OF},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            # A run inside another one belongs to no deployment: its parent fails too.
            match_related=ResourceSpecification({"prefect.resource.role": "deployment"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[SendNotification(block_document_id=block, subject=SUBJECT, body=MESSAGE)],
    )


async def put_automation(client: PrefectClient, automation: AutomationCore) -> None:
    """Create the automation, or update the one of its name; a paused one stays paused."""
    found = await client.read_automations_by_name(automation.name)
    if not found:
        await client.create_automation(automation)
        return
    kept = automation.model_copy(update={"enabled": found[0].enabled})
    await client.update_automation(found[0].id, kept)
