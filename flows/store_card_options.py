"""The options of `voco store card`."""

from __future__ import annotations

from typing import Any

from flows.command_parser import add_command
from flows.option_values import local
from voco_data.storage import path_or_url


def add_store_card(actions: Any) -> None:
    """Add the action `card` of `voco store`."""
    card = add_command(
        actions, "card", "what one store holds, for others: Croissant JSON-LD without ids"
    )
    add = card.add_argument
    add("store", type=path_or_url, metavar="STORE")
    add("--out", type=local, metavar="FILE", help="file to write (<store>.croissant.json)")
    add(
        "--licence",
        metavar="SPDX|URL",
        help="licence of the volumes, such as CC-BY-4.0; without, the card says: not given",
    )
    add("--name", metavar="TEXT", help="name of the dataset (that of the store)")
    add("--url", metavar="URL", help="page of the dataset")
    add("--creator", metavar="TEXT", help="the organisation that made the dataset")
    add("--cite", dest="citation", metavar="TEXT", help="how to cite it, as BibTeX or text")
    add("--published", metavar="DATE", help="day of publication, such as 2026-01-31")
    add("--labels", type=local, metavar="FILE", help="also count the classes of this label table")
