"""The flow `retrain` in a process of its own that dies of SIGKILL after a checkpoint.

`python -m tests.support.killed_retraining FOLDER DUE ID PARAMETERS`, the last one as JSON.
Prefect's temporary server is left behind, as after any kill -9; it is in the process group of this
process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.project import PROJECT

KILLED_AT_STEP = 2


def retrain_and_die(folder: Path, due: datetime, run_id: str, parameters: dict[str, Any]) -> None:
    """Start the process, wait for its death, and end what it leaves behind."""
    words = [str(folder), due.isoformat(), run_id, json.dumps(parameters)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.killed_retraining", *words],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        start_new_session=True,
    )
    try:
        code = process.wait(timeout=600)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert code == -signal.SIGKILL, f"it ended with {code}"


def main(folder: Path, due: datetime, run_id: str, parameters: dict[str, Any]) -> None:
    from flows.embedded import isolate_prefect, start_server

    isolate_prefect(folder)
    start_server()
    from flows import retraining_steps
    from flows.retrain import retrain
    from voco_models.training import checkpoint

    save = checkpoint.save

    def save_and_die(path: Path, payload: dict[str, Any]) -> None:
        save(path, payload)
        if payload["step"] >= KILLED_AT_STEP:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = save_and_die
    run = SimpleNamespace(scheduled_start_time=due, id=run_id)
    retraining_steps.flow_run = run  # type: ignore[assignment]
    retrain(**parameters)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    )
