"""The other side: start the contestants, and ask each in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voco_data.errors import VocoError
from voco_models.bench.answering import ANSWER

ABSENT = 3
"""Exit code of a contestant whose library is not installed."""

SETTLE_S = 0.1
"""Between two repeats. The workers of one contestant still read ahead when its turn is over."""

_IMPORT = """
import importlib, sys
try:
    module = importlib.import_module(sys.argv[1])
except ModuleNotFoundError as error:
    print("not installed:", error.name, file=sys.stderr)
    sys.exit({absent})
module.main(*sys.argv[2:])
"""


class Contestant:
    """A process that measures when asked."""

    def __init__(self, module: str, arguments: Sequence[str], folder: Path) -> None:
        """Start `module`.main(*arguments). What it prints goes to a file of its name."""
        self.module = module
        self._errors = folder / f"{module}-{arguments[0]}.log"
        with self._errors.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _IMPORT.format(absent=ABSENT), module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Libraries that keep caches under the home folder find one of their own.
                env=os.environ | {"HOME": str(folder)},
            )

    def installed(self) -> bool:
        """Wait until it is warm; False if its library is not there."""
        return self._listen() is not None

    def ask(self) -> dict[str, float]:
        """One more repeat."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found = self._listen()
        assert found is not None
        return found

    def end(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.communicate()

    def _listen(self) -> dict[str, float] | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                found: dict[str, float] = json.loads(line.removeprefix(ANSWER))
                return found
        if self._process.wait() == ABSENT:
            return None
        last = self._errors.read_text().strip().splitlines()[-1:] or ["no message"]
        raise VocoError(f"bench: {self.module} ended: {last[0]}")


def medians(
    wanted: dict[str, tuple[str, tuple[str, ...]]], folder: Path, repeats: int
) -> dict[str, float | None]:
    """Median seconds by name, over interleaved repeats; None where a library is not installed.

    `wanted` maps names to modules and arguments of their `main`.
    """
    found: dict[str, list[float]] = defaultdict(list)
    absent: dict[str, float | None] = {}
    running: list[Contestant] = []
    try:
        for name, (module, arguments) in wanted.items():
            contestant = Contestant(module, arguments, folder)
            running.append(contestant)
            if not contestant.installed():
                running.pop().end()
                absent[name] = None
        for _ in range(repeats):
            for contestant in running:
                time.sleep(SETTLE_S)
                for name, value in contestant.ask().items():
                    found[name].append(value)
    finally:
        for contestant in running:
            contestant.end()
    return absent | {name: statistics.median(values) for name, values in found.items()}


def row(name: str, value: float | None, unit: str, note: str = "") -> dict[str, Any]:
    """A row of the table."""
    return {"name": name, "median": value, "unit": unit} | (
        {"note": note or "not installed"} if value is None or note else {}
    )
