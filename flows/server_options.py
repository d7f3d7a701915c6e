"""The options of `voco server`."""

from __future__ import annotations

from typing import Any

from flows.command_parser import add_command


def add_server(commands: Any) -> None:
    """Add `voco server` with its actions."""
    parser = commands.add_parser(
        "server", help="set up a Prefect server, work for it", allow_abbrev=False
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_worker(actions)


def _add_worker(actions: Any) -> None:
    worker = add_command(actions, "worker", "run what a work pool asks for, until it is stopped")
    add = worker.add_argument
    add("--pool", required=True, metavar="POOL", help="cpu or gpu")
    add("--name", metavar="NAME", help="name of the worker on Prefect's page")
    add("--healthcheck", action="store_true", help="answer at http://127.0.0.1:8080/health")
