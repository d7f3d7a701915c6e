"""A Prefect worker whose stop is over only when its runs have saved: `voco server worker`.

`prefect worker start` ends within a second of SIGTERM, while its runs still save. A container ends
with its first process, and a service of systemd is killed when its main process is gone. So this
process starts the worker as a child, passes the signal on, and waits for the worker and for all
runs that it has left behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from voco_data.errors import InputError, VocoError

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
PR_SET_CHILD_SUBREAPER: Final = 36
"""From linux/prctl.h: processes that lose their parent become children of this one."""


def require_server() -> str:
    """The address of the API of a Prefect server. Raises InputError if none is set."""
    from prefect.settings import PREFECT_API_URL  # it takes a second

    address = PREFECT_API_URL.value()
    if not address:
        raise InputError(
            "expected the address of a Prefect server, found none; start one with `prefect server "
            "start` and set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    return str(address)


def run_worker(pool: str, *, name: str | None = None, healthcheck: bool = False) -> None:
    """Work for `pool` until SIGTERM or SIGINT, and return when all runs have saved and ended.

    Raises VocoError if the worker ends by itself with an error.
    """
    words = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        pool,
        "--type",
        "process",
    ]
    words += ["--name", name] if name else []
    words += ["--with-healthcheck"] if healthcheck else []
    _adopt_orphans()
    stopped = False
    worker: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:
        nonlocal stopped
        if worker is not None and not stopped:  # a second signal would kill the worker
            worker.send_signal(signal.SIGTERM)
        stopped = True

    # The worker must not inherit that SIGINT is ignored, as in a background job of a script: it
    # would then never end. A handler of Python's is not inherited.
    old_handlers = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        # In a session of its own, because a terminal sends Ctrl-C to all processes of a command.
        worker = subprocess.Popen(words, env=worker_environment(), start_new_session=True)
        code = worker.wait()
        _wait_for_orphans()
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
    if code != 0 and not stopped:
        raise VocoError(f"the worker of the pool {pool} ended with exit code {code}; see above")


def worker_environment() -> dict[str, str]:
    """The environment of this process, in which `python` is this Python."""
    folder = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": os.pathsep.join((folder, os.environ.get("PATH", os.defpath))),
        "PREFECT_PLUGINS_ENABLED": "false",  # short names are for people
        "DO_NOT_TRACK": "1",
    }


def _adopt_orphans() -> None:
    """Become the parent of all processes below this one that lose theirs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _wait_for_orphans() -> None:
    """Wait until this process has no child."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
