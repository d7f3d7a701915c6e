"""What a second try can mend: a shared disk that hiccups, a store that another run fills."""

from __future__ import annotations

import errno
from typing import Any, Final

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from voco_data.errors import StoreBusy, StoreUnreachable

TRANSIENT: Final = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET}
)
"""Error numbers of network file systems that come back. A missing file or a full disk does not."""


def worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Prefect's `retry_condition_fn`: true for trouble that passes, false for input and bugs."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return isinstance(error, StoreBusy | StoreUnreachable)
