"""Prefect embedded in one process, with a private home folder and without a log."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from voco_data.errors import InputError


def isolate_prefect(root: Path) -> None:
    """Give this process a private Prefect home in `root/.prefect`, before Prefect is imported.

    All PREFECT_ variables of the caller are removed: the embedded run must not report to the
    user's server, read the user's profiles or write to the user's database. Raises InputError if
    the folder cannot be made.
    """
    if "prefect" in sys.modules:
        raise RuntimeError("Prefect reads its settings at import: isolate it before")
    home = root.absolute() / ".prefect"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{root}: cannot be written ({error.strerror}); give a folder of your own as --root"
        ) from error
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_PLUGINS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # errors are exceptions, and voco prints them
        "DO_NOT_TRACK": "1",
    }


def start_server() -> None:
    """Start the temporary server of this process, with SIGINT blocked.

    A terminal sends Ctrl-C to all processes of a command. The server must outlive it, to be told
    how the run ended. It inherits the signal mask, and is stopped at exit with SIGTERM.
    """
    from prefect.client.orchestration import get_client  # here: after isolate_prefect

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        get_client(sync_client=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
