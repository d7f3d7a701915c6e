"""The cohort of the champion: the rows of the store that it was fine-tuned on, and since when.

No torch is loaded: a machine that only preprocesses can watch for drift.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from voco_data.errors import InputError
from voco_models.tracking.champion_changes import require_champions
from voco_models.tracking.champions import FINETUNE_FOLDER, read_champions
from voco_models.tracking.pins import PINS, ROWS


@dataclass(frozen=True, slots=True)
class ChampionCohort:
    """What the champion has learnt from."""

    name: str
    """The champion, a folder in RUNS."""
    store: str
    """Folder or URL of the store that it was fine-tuned on."""
    rows: Path
    """The rows of the stores, `voco_data.selection.PinnedRows`."""
    since: str
    """When they were pinned, UTC, ISO 8601; of runs of older versions, when they ended."""
    run: Path
    """The folder of the fine-tuning run."""


def find_champion_cohort(runs: Path) -> ChampionCohort:
    """The cohort of the champion of RUNS. Raises InputError without one, or without its pins."""
    champions = read_champions(require_champions(runs))
    champion = champions.find(champions.champion) if champions.champion else None
    if champion is None:
        raise InputError(f"{runs}: expected a champion, there is none yet; retrain first")
    folder = runs / champion.run
    try:
        pins = json.loads((folder / PINS).read_text())
        return ChampionCohort(
            name=champion.run,
            store=str(pins["stores"]["finetune"]),
            rows=folder / ROWS,
            since=str(pins.get("pinned") or champion.finished),
            run=folder / FINETUNE_FOLDER,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / PINS}: expected the pins of the champion, cannot read them; restore the "
            "file, or promote another run"
        ) from error
