"""The end of a retraining: the comparison with the champion, and who is champion then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from voco_data.errors import InputError
from voco_data.selection import now
from voco_models import stages
from voco_models.tracking.champion_changes import record_run
from voco_models.tracking.champions import (
    EVALUATE_FOLDER,
    FINETUNE_FOLDER,
    RetrainedRun,
    folders_are_tainted,
    read_champions,
)
from voco_models.tracking.learnt import describe_learnt
from voco_models.tracking.outcome import COMPARISON, describe_retraining
from voco_models.tracking.pins import RetrainingPins
from voco_models.tracking.promotion import MARGIN, Verdict, judge
from voco_models.tracking.scores import read_own_score


def conclude_retraining(pins: RetrainingPins, margin: float = MARGIN) -> dict[str, Any]:
    """Compare a finished retraining with the champion, record it, and say who is champion.

    The first one becomes champion. A run that cannot be compared is kept as a challenger with the
    reason. A conclusion that is made again changes nothing.
    """
    folder, runs = pins.folder, pins.folder.parent
    champions = read_champions(runs)
    if champions.find(folder.name) is None:
        against = champions.champion
        learnt = describe_learnt(pins, champions.last)
        run = RetrainedRun(folder.name, pins.backbone.folder, now(), dict(pins.digests), learnt)
        verdict = _judge(pins, against, margin)
        if verdict.scored is None:  # not compared with a champion
            verdict = replace(verdict, scored=read_own_score(folder / EVALUATE_FOLDER))
        record_run(runs, run, verdict, against)
    return describe_retraining(pins)


def _judge(pins: RetrainingPins, champion: str | None, margin: float) -> Verdict:
    folder, runs = pins.folder, pins.folder.parent
    if folders_are_tainted(runs, folder.name, pins.backbone.folder):
        return Verdict(False, "it has learnt from a withdrawn patient")
    if champion is None:
        return Verdict(True, "there was no champion")
    try:
        found = stages.compare_runs(
            folder / FINETUNE_FOLDER,
            runs / champion / FINETUNE_FOLDER,
            folder / COMPARISON,
            corrected=True,
        )
    except InputError as error:  # such as other groups, or no test patient in common
        return Verdict(False, f"it cannot be compared with the champion {champion}: {error}")
    return judge(found.differences, found.patients, champion, margin)
