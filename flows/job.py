"""`python -m flows.job`: the command with which a worker runs a flow.

A worker that stops kills its child at once, and a worker that cancels a run kills its child after
30 seconds. So the child of the worker is this small process, and the engine of the flow is a child
of this one, in a session of its own:

    worker → flows.job → flows.job_engine

The engine watches a pipe whose other end only this process holds. It closes when this process is
told to stop, when it is killed, and when its worker has died. The engine then saves and ends; see
`job_engine.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import IO

POLL_S = 1.0
"""Time between two looks whether the worker still lives."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Lifeline:
    """A pipe that tells another process, by being closed, that it shall stop."""

    def __init__(self) -> None:
        self.watched, self._held = os.pipe()
        """The end to pass to the other process; this process closes its copy then."""

    def close(self) -> None:
        """Tell the other process to stop. A second call does nothing."""
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)


def main() -> int:
    """Run the flow run of this environment; returns the exit code of its engine."""
    worker = os.getppid()
    lifeline = Lifeline()
    for number in SIGNALS:
        signal.signal(number, lambda *_: lifeline.close())
    engine = subprocess.Popen(
        [sys.executable, "-m", "flows.job_engine", str(lifeline.watched)],
        pass_fds=(lifeline.watched,),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    os.close(lifeline.watched)
    assert engine.stdout is not None
    copier = threading.Thread(target=_copy_output, args=(engine.stdout,), daemon=True)
    copier.start()
    code = _wait(engine, worker, lifeline)
    _end_group(engine.pid)
    copier.join(POLL_S)
    return code if code >= 0 else 128 - code


def _wait(engine: subprocess.Popen[bytes], worker: int, lifeline: Lifeline) -> int:
    """Wait for the engine to end. If the worker dies before, tell the engine to stop."""
    while True:
        try:
            return engine.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if os.getppid() != worker:
                lifeline.close()


def _copy_output(output: IO[bytes]) -> None:
    """Copy what the engine prints, to its end, even if nobody reads it any more.

    The engine must not be stopped by a broken pipe while it saves.
    """
    broken = False
    while chunk := os.read(output.fileno(), 2**16):
        try:
            if not broken:
                os.write(sys.stdout.fileno(), chunk)
        except BrokenPipeError:
            broken = True


def _end_group(group: int) -> None:
    """Kill what the engine has started and left behind."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main())
