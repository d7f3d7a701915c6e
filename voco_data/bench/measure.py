"""Time one row of the benchmark in a process of its own.

    python -m voco_data.bench.measure MODULE.FUNCTION FOLDER REPEATS CORE

Prints the seconds of every repeat as a JSON list. The first call is not counted: it compiles,
imports and fills the cache. The process has one core, and every library one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from voco_data.temporary_folders import temporary_folder

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
"""Exit status where the library of a peer is absent. The name of the module is printed."""


@dataclass(frozen=True, slots=True)
class Job:
    """A function to time on a series."""

    function: str
    """`module.function` in voco_data.bench. It is called with `folder` and an empty folder for its
    files, and returns the call to time."""
    folder: Path
    """The DICOM files of the series."""
    repeats: int


class NotInstalledError(Exception):
    """The library of a peer is absent."""


def start(job: Job, core: int, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start to measure on one core."""
    command = [sys.executable, "-m", "voco_data.bench.measure", job.function, str(job.folder)]
    return subprocess.Popen(
        [*command, str(job.repeats), str(core)],
        env={**environment, **ONE_THREAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str]) -> list[float]:
    """The seconds of each repeat. Raises NotInstalledError, or RuntimeError with the last error."""
    output, errors = process.communicate()
    if process.returncode == NOT_INSTALLED:
        raise NotInstalledError(output.strip())
    if process.returncode:
        raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else "it died")
    seconds: list[float] = json.loads(output.splitlines()[-1])
    return seconds


def main(argv: Sequence[str]) -> int:
    """Prepare, call once, then time the repeats."""
    function, folder, repeats, core = argv
    os.sched_setaffinity(0, {int(core)})
    warnings.simplefilter("ignore")
    with temporary_folder() as out:
        try:
            module, _, name = function.partition(".")
            prepare = getattr(import_module(f"voco_data.bench.{module}"), name)
            run = prepare(Path(folder), out)
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
