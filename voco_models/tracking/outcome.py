"""What came of a retraining, from its pins and from champion.json. Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voco_models.tracking.champions import is_tainted, read_champions
from voco_models.tracking.pins import RetrainingPins

COMPARISON = "comparison"
"""Folder of the comparison with the champion, inside the folder of a retraining."""


def describe_retraining(pins: RetrainingPins) -> dict[str, Any]:
    """The summary of a retraining that is in champion.json: promoted or not, and why."""
    folder, runs = pins.folder, pins.folder.parent
    champions = read_champions(runs)
    first = next(event for event in champions.history if event.run == folder.name)
    champion = champions.champion
    page = folder / COMPARISON / "comparison.html"
    return {
        "run": str(folder),
        "retrained": True,
        "promoted": first.event == "promoted",
        "reason": first.reason,
        "champion": champion,
        "champion_tainted": champion is not None and is_tainted(runs, champions, champion),
        "comparison": str(page) if page.exists() else None,
        "pretrained": pins.backbone.pretrains,
        "backbone": pins.backbone.reason,
        "new_share": pins.backbone.new_share,
        "patients": pins.patients,
        "unlabelled": pins.unlabelled,
    }


def describe_nothing_new(runs: Path) -> dict[str, Any]:
    """The summary of a flow run that had nothing to learn."""
    champions = read_champions(runs)
    last = champions.last.run if champions.last else None
    return {
        "retrained": False,
        "reason": f"series, labels and recipes are those of {last}",
        "champion": champions.champion,
    }
