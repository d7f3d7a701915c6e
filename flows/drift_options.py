"""The options of `voco drift`."""

from __future__ import annotations

from typing import Any

from flows.command_parser import add_command
from flows.option_values import local, positive_int, share


def add_drift(commands: Any) -> None:
    """Add `voco drift`."""
    drift = add_command(
        commands, "drift", "what came in since the champion's cohort, compared with this cohort"
    )
    add = drift.add_argument
    add("runs", type=local, metavar="RUNS", help="the folder of the flow retrain's runs")
    add("--out", type=local, metavar="DIR", help="where to write the page (RUNS/drift)")
    add(
        "--predictions",
        type=local,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder that voco predict made with the champion: compare scores, too; repeatable",
    )
    add(
        "--alpha",
        type=share,
        metavar="F",
        help="chance of any alarm of one call without a drift (0.01)",
    )
    add(
        "--min-patients",
        type=positive_int,
        metavar="N",
        help="fewest new patients, and patients of the cohort, to compare (20)",
    )
    add(
        "--min-effect",
        action="append",
        default=[],
        dest="min_effects",
        metavar="NAME=VALUE",
        help="a smaller difference of this measure raises no alarm; repeatable (docs/drift.md)",
    )
