"""The options of `voco run`."""

from __future__ import annotations

from typing import Any

from flows.command_parser import add_command
from flows.option_values import local


def add_run(commands: Any) -> None:
    """Add `voco run verify`."""
    about = "look at the folders of training runs"
    run = commands.add_parser("run", help=about, description=about, allow_abbrev=False)
    actions = run.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = add_command(actions, "verify", "whether files of runs are lost, torn or changed")
    verify.add_argument(
        "runs",
        type=local,
        nargs="+",
        metavar="RUN",
        help="folder of a training run, or of a retraining with the runs in it",
    )
