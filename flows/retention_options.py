"""The options of `voco retention` and `voco figures`."""

from __future__ import annotations

from typing import Any

from flows.command_parser import add_command
from flows.option_values import local, seconds, whole_number
from voco_data.storage import path_or_url


def add_retention(commands: Any) -> None:
    """Add `voco retention`."""
    retention = add_command(
        commands, "retention", "old ledgers, reports and retrainings; remove them with --yes"
    )
    add = retention.add_argument
    add("root", type=path_or_url, metavar="ROOT", help="folder of the stores")
    add("--runs", type=local, metavar="RUNS", help="the folder of the flow retrain's runs, too")
    add(
        "--keep-runs",
        type=whole_number,
        default=30,
        metavar="N",
        help="the last N ledgers and reports of preprocess runs stay (30)",
    )
    add(
        "--days",
        type=whole_number,
        metavar="N",
        help="retrainings that changed in the last N days stay (90)",
    )
    add("--yes", action="store_true", help="do it; without, it is only listed")
    add(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="how long to wait for a store that a run is filling (0)",
    )


def add_figures(commands: Any) -> None:
    """Add `voco figures`."""
    figures = add_command(commands, "figures", "series, scores and speed over time, on one page")
    add = figures.add_argument
    add("root", type=path_or_url, metavar="ROOT", help="folder of the stores")
    add("--runs", type=local, metavar="RUNS", help="the folder of the flow retrain's runs, too")
    add("--out", type=local, required=True, metavar="DIR", help="where to write the page")
