"""A process that has imported everything and forks runs of `voco`: a run starts in milliseconds.

Started as `python -m tests.support.zygote`. It reads requests from stdin, one JSON object a line,
forks a run in a session of its own and says its process id. Asked for the end of a run, it waits
for it and says how it ended.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing import forkserver as servers
from pathlib import Path
from typing import Any

import psutil

from tests.support.project import PROJECT

LIMIT_S = 120.0
"""Far above what a run over a small archive takes, on a busy machine too."""
CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate"})


class Zygote:
    """The tests' side: it starts runs, and waits for them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote"],
            cwd=PROJECT,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def start(
        self, words: list[str], log: Path, *, shared: bool = False, die_at: int = 0, **more: Any
    ) -> int:
        """Fork a run of `voco` with these words; returns its process id.

        `shared` lends it the zygote's own server of worker processes, which saves it a second.
        `die_at` kills it before its n-th change of a file. `humble`: file modes count for root too.
        `environment` replaces that of the zygote.
        """
        request = {"words": words, "log": str(log), "shared": shared, "die_at": die_at, **more}
        self._pid = self._ask(request)
        return self._pid

    def end(self, pid: int | None = None) -> int:
        """Wait for a run, or for the last one; its exit code, or minus the signal that killed it.

        A run that hangs writes into its log where, and is killed.
        """
        assert self._process.stdout is not None
        pid = self._pid if pid is None else pid
        self._send({"end": pid})
        for step in (signal.SIGUSR1, signal.SIGKILL):
            if select.select([self._process.stdout], [], [], LIMIT_S)[0]:
                break
            os.kill(pid, step)
            time.sleep(0.5)
        return os.waitstatus_to_exitcode(self._answer())

    def run(self, words: list[str], log: Path, **options: Any) -> int:
        """Start a run and wait for it."""
        return self.end(self.start(words, log, **options))

    def _ask(self, request: dict[str, Any]) -> int:
        self._send(request)
        return self._answer()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the zygote has ended"
        return int(line)

    def servers(self) -> list[psutil.Process]:
        """The server of worker processes that runs may borrow."""
        children = psutil.Process(self._process.pid).children()
        return [c for c in children if is_server(c)]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@dataclass(frozen=True)
class Process:
    """One of several runs at a time, with the environment of the test."""

    zygote: Zygote
    pid: int
    log: Path

    @classmethod
    def start(cls, zygote: Zygote, words: list[str], log: Path, **environment: str) -> Process:
        """Start a run; `environment` is added to that of the test."""
        more = {"environment": os.environ | environment}
        return cls(zygote, zygote.start(words, log, **more), log)

    def is_running(self) -> bool:
        """Whether it has not ended. Nobody has waited for it."""
        return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE

    def end(self) -> tuple[int, list[str]]:
        """Wait for it: its exit code, and the lines that it printed."""
        code = self.zygote.end(self.pid)
        return code, self.log.read_text().replace("\r", "\n").splitlines()


def _die_at(changes: int) -> None:
    """SIGKILL before the n-th change of a file that this process makes."""
    left, me = changes, os.getpid()

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if (event in CHANGES or writes) and os.getpid() == me:
            left -= 1
            if left == 0:
                os.kill(me, signal.SIGKILL)

    sys.addaudithook(count)


def _become_run(request: dict[str, Any]) -> None:
    from flows.command import main

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.register(signal.SIGUSR1)  # says where a run hangs
    if request.get("humble"):
        obey_modes()
    if "environment" in request:
        os.environ.clear()
        os.environ.update(request["environment"])
    if request["die_at"]:
        _die_at(request["die_at"])
    sys.exit(main(request["words"]))


def obey_modes() -> None:
    """From now on root, too, may write only where a file's mode says so, and so may its children.

    See capabilities(7): without CAP_DAC_OVERRIDE modes count, and what has left the bounding set
    does not come back by an exec.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; refused to those who have none
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for place in range(3):  # effective, permitted, inheritable
        sets[place] &= ~0b1110
    assert libc.capset(header, sets) == 0


def _choose_server(*, shared: bool) -> None:
    """The zygote's server of worker processes, or one that this run will start by itself."""
    if shared:
        # It runs, and is no child of ours.
        servers.ensure_running = servers._forkserver.ensure_running = lambda: None
        return
    servers._forkserver.__init__()


def _serve() -> None:
    from multiprocessing import get_context

    # What a run imports and compiles, so that a forked run does neither.
    import tests.support.warm_worker  # noqa: F401
    import voco_data.executors.process_pool
    import voco_data.executors.worker
    import voco_data.ingest.run  # noqa: F401

    get_context("forkserver").set_forkserver_preload(["tests.support.warm_worker"])
    servers.ensure_running()
    for line in sys.stdin:
        request = json.loads(line)
        if "end" in request:
            print(os.waitpid(request["end"], 0)[1], flush=True)
            continue
        child = os.fork()
        if child == 0:
            _choose_server(shared=request["shared"])
            _become_run(request)
        print(child, flush=True)


if __name__ == "__main__":
    _serve()


def is_server(process: psutil.Process) -> bool:
    """Whether a process that still runs is a server of worker processes."""
    try:
        return any("forkserver" in word for word in process.cmdline())
    except psutil.NoSuchProcess:  # also one that has ended and waits for its parent
        return False
