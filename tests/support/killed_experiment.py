"""`voco experiment` in a process of its own, which is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def run_and_kill(file: Path, seconds: float) -> bool:
    """Run the command, and kill it `seconds` after its first message; whether it was alive."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.command", "experiment", str(file)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    process.stderr.readline()  # it has begun with the first trial
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    finally:
        process.stderr.close()
    return False
