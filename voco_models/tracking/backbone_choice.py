"""Whether a retraining pretrains a backbone, or takes the one of the champion."""

from __future__ import annotations

from pathlib import Path

from voco_data.selection import Split
from voco_data.store import Store
from voco_models.stages import (
    PretrainRecipe,
    load_initial_weights,
    measure_seen,
    select_pretraining_series,
)
from voco_models.tracking.champions import (
    PRETRAIN_FOLDER,
    Champions,
    folders_are_tainted,
)
from voco_models.tracking.pins import BackboneChoice
from voco_models.training import checkpoint


def choose_backbone(
    run: str,
    runs: Path,
    champions: Champions,
    store: Store,
    split: Split,
    recipe: PretrainRecipe,
    recipe_digest: str,
    threshold: float,
) -> BackboneChoice:
    """Choose for the retraining in the folder `run` of `runs`.

    The champion's backbone is taken if less than the share `threshold` of the series in `store`
    is new to it. It is not taken if the recipe of pretraining is another one, if it was tainted or
    removed, and if it has learnt from patients who are in the test set by now. Raises InputError
    if its file is damaged.
    """
    champion = champions.find(champions.champion) if champions.champion else None

    def pretrain(reason: str, new_share: float | None = None) -> BackboneChoice:
        return BackboneChoice(f"{run}/{PRETRAIN_FOLDER}", True, new_share, reason)

    if champion is None:
        return pretrain("there is no champion yet")
    if champion.digests.get("pretrain_recipe") != recipe_digest:
        return pretrain("the recipe of pretraining has changed")
    if folders_are_tainted(runs, champion.backbone):
        return pretrain("the champion's backbone has learnt from a withdrawn patient")
    folder = runs / champion.backbone
    if not (folder / checkpoint.BACKBONE).is_file():
        return pretrain(f"the champion's backbone is gone from {champion.backbone}")
    seen = load_initial_weights(folder, recipe.backbone).seen
    if seen is None:
        return pretrain("it is unknown whom the champion's backbone has learnt from")
    exposure = measure_seen(seen, [store], split.test)
    if exposure.seen != 0:
        return pretrain(
            f"the champion's backbone has learnt from {exposure.seen} of the test patients"
            if exposure.seen
            else "it is unknown whether the champion's backbone has learnt from test patients"
        )
    known = {content for part in seen.stores for own in part.contents.values() for content in own}
    series = select_pretraining_series([store], recipe.selection, split, transductive=False).series
    share = float((~series["content_digest"].isin(known)).mean())
    found = f"{share:.1%} of the series are new to the champion's backbone"
    if share >= threshold:
        return pretrain(f"{found}, at least {threshold:.1%}", share)
    return BackboneChoice(champion.backbone, False, share, f"{found}, less than {threshold:.1%}")
