"""When Prefect tries a task or a flow run again, and how a training stage then goes on."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, Final

from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.tasks import Task

from voco_data.errors import StoreBusy, StoreUnreachable
from voco_data.storage import RUN_DESCRIPTION

TRANSIENT: Final = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET}
)
"""Error numbers of network file systems that pass. A missing file or a full disk does not."""

PRETRAINED = "checkpoint.pt"
"""What the run folder of pretraining holds from its beginning on."""
FINETUNED = RUN_DESCRIPTION
"""What the run folder of fine-tuning holds from its beginning on."""


def worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Prefect's `retry_condition_fn`: True for errors that may pass, False for input and bugs."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return isinstance(error, StoreBusy | StoreUnreachable)


def stopped_before(marker: Path) -> bool:
    """Whether an earlier try of this flow run was stopped and left `marker`.

    A flow run that is retried goes on with its run folder. For any other flow run the stage refuses
    a folder that is in use.
    """
    tries: int = flow_run.run_count
    return tries > 1 and marker.exists()
