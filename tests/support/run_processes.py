"""The processes of a flow run that a worker executes on this machine."""

from __future__ import annotations

import os

import psutil


def engine_of(run: str) -> psutil.Process | None:
    """The process with the engine of a run; it leads the group of all processes of the run."""
    for process in psutil.process_iter():
        try:
            if (
                "flows.job_engine" in process.cmdline()
                and process.environ().get("PREFECT__FLOW_RUN_ID") == run
            ):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return None


def group_of(leader: int) -> list[int]:
    """Living processes of a group."""
    members = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and os.getpgid(process.pid) == leader:
                members.append(process.pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return members
