"""Runs a benchmark: starts a process for each candidate and asks them for repeats in turn."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from voco_data.errors import VocoError
from voco_models.bench.worker import RESULT

NOT_INSTALLED = 3
"""Exit code of a candidate whose library is not installed."""

LIBRARIES = ("numpy", "torch", "zarr", "monai", "litdata")
"""Libraries whose versions are reported."""

SETTLE_S = 0.1
"""Pause between two repeats, in seconds: workers of a candidate still read ahead after it."""

_IMPORT = """
import importlib, sys
try:
    module = importlib.import_module(sys.argv[1])
except ModuleNotFoundError as error:
    print("not installed:", error.name, file=sys.stderr)
    sys.exit({not_installed})
module.main(*sys.argv[2:])
"""


class Candidate:
    """A process that measures on request."""

    def __init__(self, module: str, arguments: Sequence[str], folder: Path) -> None:
        """Start `module`.main(*arguments). Its stderr goes to a log file in `folder`."""
        self.module = module
        self._errors = folder / f"{module}-{arguments[0]}.log"
        script = _IMPORT.format(not_installed=NOT_INSTALLED)
        with self._errors.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", script, module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Libraries with caches in the home folder get a new one.
                env=os.environ | {"HOME": str(folder)},
            )

    def wait_until_warm(self) -> bool:
        """Wait for the first repeat. Returns False if its library is not installed."""
        return self._read_result() is not None

    def measure(self) -> dict[str, float]:
        """Run one repeat. Returns seconds by name."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        result = self._read_result()
        assert result is not None
        return result

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read_result(self) -> dict[str, float] | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(RESULT):
                result: dict[str, float] = json.loads(line.removeprefix(RESULT))
                return result
        if self._process.wait() == NOT_INSTALLED:
            return None
        last = self._errors.read_text().strip().splitlines()[-1:] or ["no message"]
        raise VocoError(f"bench: {self.module} ended: {last[0]}")


def measure_medians(
    candidates: dict[str, tuple[str, tuple[str, ...]]], folder: Path, repeats: int
) -> dict[str, float | None]:
    """Median seconds by name, over interleaved repeats; None if a library is not installed.

    `candidates` maps names to modules and the arguments of their `main`.
    """
    repeated: dict[str, list[float]] = defaultdict(list)
    missing: dict[str, float | None] = {}
    running: list[Candidate] = []
    try:
        for name, (module, arguments) in candidates.items():
            candidate = Candidate(module, arguments, folder)
            running.append(candidate)
            if not candidate.wait_until_warm():
                running.pop().stop()
                missing[name] = None
        for _ in range(repeats):
            for candidate in running:
                time.sleep(SETTLE_S)
                for name, value in candidate.measure().items():
                    repeated[name].append(value)
    finally:
        for candidate in running:
            candidate.stop()
    return missing | {name: statistics.median(values) for name, values in repeated.items()}


def make_row(name: str, value: float | None, unit: str, note: str = "") -> dict[str, Any]:
    """A row of the results; `value` is None if a library is not installed."""
    return {"name": name, "median": value, "unit": unit} | (
        {"note": note or "not installed"} if value is None or note else {}
    )


def describe_machine() -> dict[str, object]:
    """Processor, usable cores, memory in bytes, and versions of the measured libraries."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
    }


def _processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
