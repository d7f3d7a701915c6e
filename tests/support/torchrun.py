"""Processes of one training, started by PyTorch's `torchrun` on the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from tests.support.project import PROJECT

LIMIT_S = 300


def torchrun(arguments: Sequence[str], *, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in several processes, one thread each; returns when all have ended."""
    return subprocess.run(
        command(arguments, processes=processes),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def command(arguments: Sequence[str], *, processes: int = 2) -> list[str]:
    """The command line of `torchrun`."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *start, *arguments]


def environment() -> dict[str, str]:
    """The environment of the processes."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
