"""Runs a benchmark: starts a process for each candidate and asks them for repeats in turn."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from voco_data.errors import VocoError
from voco_models.bench.worker import RESULT

NOT_INSTALLED = 3
"""Exit code of a candidate whose library is not installed."""

LIBRARIES = ("numpy", "torch", "timm", "zarr", "monai", "litdata")
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
        script = _IMPORT.format(not_installed=NOT_INSTALLED)
        number, name = tempfile.mkstemp(prefix=f"{module}-", suffix=".log", dir=folder)
        self._errors = Path(name)
        with os.fdopen(number, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", script, module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Libraries with caches in the home folder get a new one.
                env=os.environ
                | {"HOME": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")},
            )

    def wait_until_warm(self) -> bool:
        """Wait for the first repeat. Returns False if its library is not installed."""
        return self._read_result() is not None

    def measure(self) -> dict[str, Any]:
        """Run one repeat. Returns its values by name, such as seconds."""
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

    def _read_result(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(RESULT):
                result: dict[str, Any] = json.loads(line.removeprefix(RESULT))
                return result
        if self._process.wait() == NOT_INSTALLED:
            return None
        last = self._errors.read_text().strip().splitlines()[-1:] or ["no message"]
        raise VocoError(f"bench: {self.module} ended: {last[0]}")


Candidates = Mapping[str, tuple[str, tuple[str, ...]]]
"""Names of candidates, each with its module and the arguments of the module's `main`."""


def measure_medians(candidates: Candidates, folder: Path, repeats: int) -> dict[str, float | None]:
    """Median seconds by name, over interleaved repeats; None if a library is not installed."""
    medians: dict[str, float | None] = {}
    for candidate, results in run_interleaved(candidates, folder, repeats).items():
        if results is None:
            medians[candidate] = None
            continue
        for name in results[0]:
            medians[name] = statistics.median(result[name] for result in results)
    return medians


def run_interleaved(
    candidates: Candidates, folder: Path, repeats: int
) -> dict[str, list[dict[str, Any]] | None]:
    """The results of each candidate's repeats; None if a library is not installed.

    All candidates are started and warmed up first, one after the other. Their repeats then take
    turns. Logs of the processes are written to `folder`.
    """
    results: dict[str, list[dict[str, Any]] | None] = {}
    running: dict[str, Candidate] = {}
    try:
        for name, (module, arguments) in candidates.items():
            running[name] = Candidate(module, arguments, folder)
            if running[name].wait_until_warm():
                results[name] = []
            else:
                running.pop(name).stop()
                results[name] = None
        for _ in range(repeats):
            for name, candidate in running.items():
                time.sleep(SETTLE_S)
                measured = results[name]
                assert measured is not None
                measured.append(candidate.measure())
    finally:
        for candidate in running.values():
            candidate.stop()
    return results


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
