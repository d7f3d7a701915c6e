"""When Prefect retries a task or a flow run, and when a training stage then resumes."""

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
"""Temporary errors of network file systems. A missing file or a full disk is not temporary."""

PRETRAINED = "checkpoint.pt"
"""A file that the run folders of pretraining and of 3D-to-2D networks contain from the start."""
FINETUNED = RUN_DESCRIPTION
"""A file that the run folder of fine-tuning contains from the start."""

EVALUATED = "metrics.json"
"""A file that the folder of an evaluation contains once the test set was opened."""


def worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Prefect's `retry_condition_fn`: True for temporary errors, False for input and bugs."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return isinstance(error, StoreBusy | StoreUnreachable)


def was_interrupted(marker: Path) -> bool:
    """Whether an earlier try of this flow run stopped after it wrote the file `marker`.

    Such a flow run resumes in its run folder. In any other case the stage refuses a folder that is
    in use.
    """
    tries: int = flow_run.run_count
    return tries > 1 and marker.exists()
