"""Time one row of the benchmark in a process of its own: `python -m voco_data.bench.measure`.

Prints the seconds of every repeat as JSON, after a first call that is not counted: it compiles,
imports and warms the cache. One core, one thread for every library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "nnUNet_def_n_proc",
)
ONE_THREAD = dict.fromkeys(_THREADS, "1")
NOT_INSTALLED = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to time."""

    module: str
    """Below voco_data.bench."""
    folder: Path
    """The series' files."""
    repeats: int


class NotInstalledError(Exception):
    """The library of a peer is not there."""


def start(job: Job, core: int, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Begin to measure on one core."""
    command = [sys.executable, "-m", "voco_data.bench.measure", job.module, str(job.folder)]
    return subprocess.Popen(
        [*command, str(job.repeats), str(core)],
        env={**environment, **ONE_THREAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def seconds_of(process: subprocess.Popen[str]) -> list[float]:
    """What was measured. Raises NotInstalledError, or RuntimeError with what went wrong."""
    said, errors = process.communicate()
    if process.returncode == NOT_INSTALLED:
        raise NotInstalledError(said.strip())
    if process.returncode:
        raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else "it died")
    seconds: list[float] = json.loads(said.splitlines()[-1])
    return seconds


def main(argv: Sequence[str]) -> int:
    """Prepare, run once, then time the repeats."""
    name, folder, repeats, core = argv
    os.sched_setaffinity(0, {int(core)})
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="voco-bench-") as out:
        try:
            run = import_module(f"voco_data.bench.{name}").prepare(Path(folder), Path(out))
        except ModuleNotFoundError as error:
            print(error.name)
            return NOT_INSTALLED
        run()
        seconds = []
        for _ in range(int(repeats)):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
