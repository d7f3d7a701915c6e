"""The options of `voco champion`."""

from __future__ import annotations

import argparse
from typing import Any

from flows.command_parser import add_command
from flows.option_values import local


def add_champion(commands: Any) -> None:
    """Add `voco champion`."""
    champion = add_command(
        commands, "champion", "the champion of retrainings, its challengers and their history"
    )
    add = champion.add_argument
    add("runs", type=local, metavar="RUNS", help="the folder of the flow retrain's runs")
    change = champion.add_mutually_exclusive_group()
    change.add_argument("--promote", metavar="RUN", help="make this run the champion")
    change.add_argument(
        "--rollback", action="store_true", help="make the champion before this one champion again"
    )
    add("--reason", metavar="TEXT", help="why; it is kept in the history")
    add("--page", type=local, metavar="FILE", help="write the timeline of all runs as an HTML page")
    add(
        "--mlflow", nargs="?", const="local", metavar="URI",
        help="copy all runs to an MLflow server; without URI to the database RUNS/mlflow.db",
    )  # fmt: skip
    champion.find_problem = _find_problem


def _find_problem(args: argparse.Namespace) -> str | None:
    """A change without a reason, or a reason without a change."""
    changes = args.promote is not None or args.rollback
    if changes and not (args.reason or "").strip():
        return "--promote and --rollback need --reason TEXT, which is kept in the history"
    if args.reason is not None and not changes:
        return "--reason goes with --promote or --rollback"
    return None
