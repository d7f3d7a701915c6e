"""`python -m flows.job_engine FD`: Prefect's engine, which saves before it is stopped.

`flows.job` starts it. A thread watches the pipe FD. When it closes, the process sends itself
SIGTERM, once: training finishes its step and saves a checkpoint, other stages end where they are,
and Prefect then sets the state. That is Cancelled for a run that was cancelled, else Crashed.

Another thread looks at the state of the run on the server; see `job_state.py`.
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

from prefect._internal import control_listener
from prefect.states import Cancelled, Crashed

from flows import job_state

STOP_LIMIT_S = 300.0
"""Time that a run has to save after it was told to stop. Then it is killed."""
STOPPED_EARLY = "The worker was stopped before the flow began."

_stopping = threading.Lock()
"""Held from the moment when this process is told to stop."""


def main(watched: int) -> None:
    """Run the flow run of this environment in this process."""
    for name in ("voco_data", "voco_models"):  # not the root: HTTP clients log every request there
        logging.getLogger(name).setLevel(logging.INFO)
    threading.Thread(target=stop_when_closed, args=(watched,), daemon=True).start()
    run_id = UUID(os.environ["PREFECT__FLOW_RUN_ID"])
    if not job_state.can_begin(run_id):
        return
    unheard = threading.Event()
    threading.Thread(target=cancel_when_told, args=(run_id, unheard), daemon=True).start()
    sys.argv = ["prefect.engine"]
    try:
        runpy.run_module("prefect.engine", run_name="__main__")
    finally:
        if unheard.is_set():
            job_state.report(run_id, Cancelled(message=job_state.CANCELLED_HERE))


def stop_when_closed(watched: int) -> None:
    """Wait until the other end of a pipe is closed, then stop this process."""
    os.read(watched, 1)
    _discard_output()
    stop_process(UUID(os.environ["PREFECT__FLOW_RUN_ID"]))


def cancel_when_told(run_id: UUID, unheard: threading.Event) -> None:
    """Stop this process when the run is cancelled and its worker does nothing about it."""
    job_state.watch(run_id)
    if not _stopping.locked():
        unheard.set()
        stop_process(run_id)


def stop_process(run_id: UUID) -> None:
    """Stop the flow as SIGTERM does, and kill the process if it does not end.

    A second call does nothing: a second SIGTERM would interrupt what the first one has begun.
    """
    if not _stopping.acquire(blocking=False):
        return
    state = job_state.read(run_id)
    if state is not None and (state.is_cancelling() or state.is_cancelled()):
        # The worker says so itself, but not while training handles SIGTERM. Without this, the run
        # would be Crashed before it is Cancelled, with a notification.
        control_listener._set_intent("cancel")
    elif signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and state and not state.is_final():
        job_state.report(run_id, Crashed(message=STOPPED_EARLY))  # Prefect has no handler yet
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_LIMIT_S)
    os.killpg(0, signal.SIGKILL)


def _discard_output() -> None:
    """Send the output to nowhere: who has read it may be gone, and writing must not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


if __name__ == "__main__":
    main(int(sys.argv[1]))
