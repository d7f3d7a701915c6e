"""archive → stores → backbone → classifier → champion: the flow `retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow

from flows.artifacts import publish
from flows.evaluate import evaluate
from flows.finetune import finetune
from flows.ingest_parameters import with_ingest_parameters
from flows.parameter_types import StoreLocation
from flows.preprocess import preprocess
from flows.pretrain import pretrain
from flows.retraining_steps import (
    check_retraining,
    choose_champion,
    describe_nothing_new,
    pin_retraining,
    run_folder,
)
from flows.retries import EVALUATED, FINETUNED, PRETRAINED
from flows.split import update_split
from flows.summary import Summary
from voco_models import tracking
from voco_models.tracking import MARGIN, NEW_DATA_SHARE, RetrainingRequest

if TYPE_CHECKING:  # a server deploys the flow without PyTorch
    from voco_models.tracking import RetrainingPins

SPLIT = "split.json"
"""The one split file of all retrainings, in the folder of their runs."""


@flow(name="retrain")
@with_ingest_parameters
def retrain(
    source: Path,
    root: StoreLocation,
    labels: Path,
    runs: Path,
    pretrain_recipe: str = "default",
    finetune_recipe: str = "default",
    pretrain_changes: tuple[str, ...] = (),
    finetune_changes: tuple[str, ...] = (),
    image_labels: Path | None = None,
    split: Path | None = None,
    allow_unlabelled: bool = True,
    new_data_share: float = NEW_DATA_SHARE,
    margin: float = MARGIN,
    pretrain_profile: str = "pretrain",
    finetune_profile: str = "finetune",
    wait: float = 3600.0,
    **options: Any,
) -> Summary:
    """Preprocess what is new, train on it, and compare the result with the champion.

    Args:
        source: Folder with DICOM or NIfTI files.
        root: Folder of the stores, s3://bucket/prefix or az://container/prefix.
        labels: train.csv in RATIC's form.
        runs: Folder that gets one run folder for each retraining, and champion.json.
        pretrain_recipe: Name of a pretraining recipe, or the path of a .toml file.
        finetune_recipe: Name of a fine-tuning recipe, or the path of a .toml file.
        pretrain_changes: Changes of the pretraining recipe, each NAME=VALUE.
        finetune_changes: Changes of the fine-tuning recipe, each NAME=VALUE.
        image_labels: image_level_labels.csv of RATIC, for recipes with slice_weight.
        split: Split file, to which new patients are appended; by default split.json in runs.
        allow_unlabelled: Leave out and count patients without labels instead of refusing the store.
        new_data_share: Pretrain if this share of the series is new to the champion's backbone.
        margin: How much worse than the champion the score may be at the end of its interval.
        pretrain_profile: Name of the spec whose store is pretrained on.
        finetune_profile: Name of the spec whose store is fine-tuned on.
        wait: Seconds to wait for a store that another run is filling.
    """
    run, split = run_folder(runs), split or runs / SPLIT
    request = RetrainingRequest(
        labels, pretrain_recipe, finetune_recipe, pretrain_changes, finetune_changes,
        image_labels, allow_unlabelled, new_data_share,
    )  # fmt: skip
    profiles = {"pretrain": pretrain_profile, "finetune": finetune_profile}
    pins = tracking.read_pins(run)  # of a try that was stopped
    if pins is None:
        check_retraining(request, runs, margin, profiles, options)
        made = preprocess(source, root, wait=wait, **options)["stores"]
        stores = {stage: made[name] for stage, name in profiles.items()}
        update_split(stores["finetune"], labels, split, finetune_recipe, finetune_changes)
        pins = pin_retraining(run, request, stores, split)
    if pins is None:
        return publish("retrain", describe_nothing_new(runs), link=runs)
    train(pins, request)
    scores = evaluate(run / "finetune", run / "evaluate", resume=is_evaluated(run))
    return publish("retrain", {**scores, **choose_champion(pins, margin)}, link=run)


def train(pins: RetrainingPins, request: RetrainingRequest) -> None:
    """Pretrain if the pins say so, and fine-tune: the flows, with all that is pinned."""
    if pins.backbone.pretrains:
        pretrain(
            [pins.stores["pretrain"]],
            pins.folder / "pretrain",
            recipe=request.pretrain_recipe,
            changes=request.pretrain_changes,
            split=pins.split,
            resume=(pins.folder / "pretrain" / PRETRAINED).exists(),
            rows=pins.rows,
        )
    finetune(
        pins.stores["finetune"],
        pins.labels,
        pins.folder / "finetune",
        init=pins.init,
        recipe=request.finetune_recipe,
        changes=request.finetune_changes,
        image_labels=pins.image_labels,
        split=pins.split,
        resume=(pins.folder / "finetune" / FINETUNED).exists(),
        allow_unlabelled=True,  # those without labels were counted, or refused, before
        rows=pins.rows,
    )


def is_evaluated(run: Path) -> bool:
    """Whether an earlier try of this retraining opened the test set: then this one is a retry."""
    return (run / "evaluate" / EVALUATED).exists()
