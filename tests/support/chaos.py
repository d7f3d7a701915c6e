"""Kills at random moments: a run is started, harmed, looked at from outside, and run again."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from tests.support import store_truth
from tests.support.chaos_archive import make_archive, make_second_state, words, write_specs
from tests.support.zygote import Zygote, is_server

Harm = Literal["main", "worker", "any", "ctrl-c"]
State = Literal["first", "second"]

ORPHANS_S = 30.0
"""Far above what processes of a killed run take to end, on a busy machine too."""


@dataclass
class Chaos:
    """Two states of an archive, the stores of undisturbed runs over them, and a zygote."""

    folder: Path
    zygote: Zygote
    archives: dict[State, Path] = field(default_factory=dict)
    expected: dict[State, dict[str, object]] = field(default_factory=dict)
    seconds: dict[State, float] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the archives, and run undisturbed over the first, then over the second."""
        first = make_archive(self.folder / "first")
        self.archives = {"first": first, "second": make_second_state(first, self.folder / "second")}
        self.specs = write_specs(self.folder / "specs.json")
        self.log = self.folder / "log"
        root = self.folder / "reference"
        for state in ("first", "second"):
            began = time.monotonic()
            self.go(state, root, shared=True)  # the first one also fills caches of compiled code
            self.seconds[state] = time.monotonic() - began
            store_truth.check_finished(root)
            self.expected[state] = store_truth.snapshot(root)
            if state == "first":
                shutil.copytree(root, self.folder / "after-first")
        began = time.monotonic()
        self.go("first", self.fresh_root("timed", "first"), shared=True)
        self.seconds["first"] = time.monotonic() - began

    def fresh_root(self, name: str, state: State) -> Path:
        """The root that a run over `state` finds: with the key of the reference, or its stores."""
        root = self.folder / name
        shutil.rmtree(root, ignore_errors=True)
        if state == "second":
            return Path(shutil.copytree(self.folder / "after-first", root))
        private = root / "private"
        private.mkdir(parents=True, mode=0o700)
        shutil.copy(self.folder / "reference/private/ids.key", private)
        return root

    def go(self, state: State, root: Path, *, shared: bool = False) -> None:
        """An undisturbed run; it must end well."""
        code = self.zygote.run(
            words(self.archives[state], root, self.specs), self.log, shared=shared
        )
        assert code == 0, self.log.read_text()

    def harm(self, seed: int, harm: Harm, state: State, *, shared: bool) -> str:
        """One run, harmed at a moment that `seed` chooses, and all that must hold after it."""
        rng = random.Random(seed)
        root = self.fresh_root("root", state)
        duration = self.seconds[state] + (0 if shared else 1.2)
        moment = rng.uniform(0.03, 1.02 * duration)
        pid = self.zygote.start(
            words(self.archives[state], root, self.specs), self.log, shared=shared
        )
        time.sleep(moment)
        if harm == "ctrl-c":
            _interrupt(pid)
        elif victims := self._victims(pid, harm):
            _kill(rng.choice(victims))
        code = self.zygote.end()
        self.check_gone(pid)
        said = self.log.read_text()
        what = f"seed {seed}: {harm} at {moment:.3f} s of {state}, exit {code}\n{said[-2000:]}"
        allowed = {"main": {0, -9}, "ctrl-c": {0, 130, -2}, "worker": {0}, "any": {0, 1}}
        assert code in allowed[harm], what
        if code != 0:
            assert "Traceback" not in said, what
        self.check_resumes(state, root, what, shared=shared)
        return what

    def check_resumes(self, state: State, root: Path, what: str, *, shared: bool) -> None:
        """Nothing lies now; a rerun leaves what is finished, and ends as if nothing had been."""
        store_truth.check_root(root)
        before = store_truth.committed(root)
        self.go(state, root, shared=shared)
        store_truth.check_finished(root)
        after = store_truth.committed(root)
        redone = {p for p in before if p in after and before[p] != after[p]}
        assert not redone, f"{what}: written again: {redone}"
        found, expected = store_truth.snapshot(root), self.expected[state]
        assert not set(found) ^ set(expected), f"{what}: {sorted(set(found) ^ set(expected))}"
        differ = [name for name in expected if found[name] != expected[name]]
        assert not differ, f"{what}: differ: {differ}"

    def _victims(self, pid: int, harm: Harm) -> list[psutil.Process]:
        """The main process of the run, or the others: those that fill stores, or any."""
        found = sorted(self._belonging(pid), key=lambda process: process.pid)
        if harm == "main":
            return [process for process in found if process.pid == pid]
        others = [process for process in found if process.pid != pid]
        if harm == "any":
            return others
        parents = {process.pid for process in others if is_server(process)}
        parents |= {process.pid for process in self.zygote.servers()}
        return [process for process in others if _parent(process) in parents]

    def _belonging(self, pid: int) -> list[psutil.Process]:
        """All processes of a run: those of its session, and workers of the zygote's server."""
        lent = [c for server in self.zygote.servers() for c in _children(server)]
        return [*lent, *(p for p in psutil.process_iter() if _session(p) == pid)]

    def check_gone(self, pid: int) -> None:
        """No process of the run is left, also none that lost its parent."""
        deadline = time.monotonic() + ORPHANS_S
        while left := self._belonging(pid):
            if time.monotonic() > deadline:
                for process in left:
                    _kill(process)
                raise AssertionError(f"still running: {left}")
            time.sleep(0.02)


def _interrupt(pid: int) -> None:
    """Ctrl-C: a terminal sends it to the whole group. The run may have ended before."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGINT)


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [c for c in process.children() if c.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def _session(process: psutil.Process) -> int:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return 0
        return os.getsid(process.pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return 0
