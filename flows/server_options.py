"""The options of `voco server`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.command_parser import add_command
from flows.option_values import local
from voco_data.storage import path_or_url


def add_server(commands: Any) -> None:
    """Add `voco server` with its actions."""
    parser = commands.add_parser(
        "server", help="set up a Prefect server, work for it", allow_abbrev=False
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_setup(actions)
    _add_worker(actions)


def _add_setup(actions: Any) -> None:
    setup = add_command(
        actions, "setup", "make pools, deployments and automations on the server of PREFECT_API_URL"
    )
    add = setup.add_argument
    add("--folder", type=local, default=Path(), metavar="DIR", help="where runs start (.)")
    add("--source", type=path_or_url, metavar="DIR", help="the archive (that of prefect.yaml)")
    add("--root", type=path_or_url, metavar="DIR", help="where the stores live")
    add("--labels", type=local, metavar="FILE", help="the labels, for retrain and finetune")
    add("--runs", type=local, metavar="DIR", help="where retrain makes its run folders")
    add(
        "--notify",
        metavar="URL|TYPE/NAME",
        help="tell of failed, crashed, late and drift runs: a webhook, or a block of Prefect",
    )


def _add_worker(actions: Any) -> None:
    worker = add_command(actions, "worker", "run what a work pool asks for, until it is stopped")
    add = worker.add_argument
    add("--pool", required=True, metavar="POOL", help="cpu or gpu")
    add("--name", metavar="NAME", help="name of the worker on Prefect's page")
    add("--healthcheck", action="store_true", help="answer at http://127.0.0.1:8080/health")
