"""`python -m flows.job_engine FD`: Prefect's engine, which saves before it is stopped.

`flows.job` starts it. A thread watches the pipe FD. When it closes, the process sends itself
SIGTERM, once: training finishes its step and saves a checkpoint, other stages end where they are,
and Prefect then sets the state. That is Cancelled for a run that was cancelled, else Crashed.
"""

from __future__ import annotations

import logging
import os
import runpy
import signal
import sys
import threading
import time
from uuid import UUID

import httpx
from prefect._internal import control_listener
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed

STOP_LIMIT_S = 300.0
"""Time that a run has to save after it was told to stop. Then it is killed."""
STOPPED_EARLY = "The worker was stopped before the flow began."

log = logging.getLogger(__name__)


def main(watched: int) -> None:
    """Run the flow run of this environment in this process."""
    for name in ("voco_data", "voco_models"):  # not the root: HTTP clients log every request there
        logging.getLogger(name).setLevel(logging.INFO)
    threading.Thread(target=stop_when_closed, args=(watched,), daemon=True).start()
    sys.argv = ["prefect.engine"]
    runpy.run_module("prefect.engine", run_name="__main__")


def stop_when_closed(watched: int) -> None:
    """Wait until the other end of a pipe is closed, then stop this process."""
    os.read(watched, 1)
    _discard_output()
    run_id = UUID(os.environ["PREFECT__FLOW_RUN_ID"])
    state = read_state(run_id)
    if state is not None and (state.is_cancelling() or state.is_cancelled()):
        # The worker says so itself, but not while training handles SIGTERM. Without this, the run
        # would be Crashed before it is Cancelled, with a notification.
        control_listener._set_intent("cancel")
    elif signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        report_crash(run_id, state)  # Prefect does not handle SIGTERM yet
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_LIMIT_S)
    os.killpg(0, signal.SIGKILL)


def _discard_output() -> None:
    """Send the output to nowhere: who has read it may be gone, and writing must not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def read_state(run_id: UUID) -> State | None:
    """The state of the run, or None if the server does not answer."""
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": 5.0}) as client,
        ):
            return client.read_flow_run(run_id).state
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("the state of the run cannot be read: %s", error)
        return None


def report_crash(run_id: UUID, state: State | None) -> None:
    """Set the state Crashed for a run whose flow has not begun."""
    if state is None or state.is_final():
        return
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Crashed(message=STOPPED_EARLY))


if __name__ == "__main__":
    main(int(sys.argv[1]))
