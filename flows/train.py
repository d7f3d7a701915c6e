"""stores + labels → backbone → classifier → champion: `train`, the part of `retrain` on a GPU."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.artifacts import publish
from flows.evaluate import evaluate
from flows.finetune import finetune
from flows.parameter_types import FinetuneRecipeName, PretrainRecipeName, StoreLocation
from flows.pretrain import pretrain
from flows.retraining_steps import choose_champion, copy_to_mlflow, describe_outcome, pin_retraining
from flows.retries import EVALUATED, FINETUNED, PRETRAINED
from flows.run_names import name_run
from flows.split import update_split
from flows.summary import Summary
from voco_models.tracking import (
    MARGIN,
    NEW_DATA_SHARE,
    RetrainingPins,
    RetrainingRequest,
    read_pins,
)


@flow(name="train", flow_run_name=name_run)
def train(
    run: Path,
    stores: dict[str, StoreLocation],
    labels: Path,
    split: Path,
    pretrain_recipe: PretrainRecipeName = "default",
    finetune_recipe: FinetuneRecipeName = "default",
    pretrain_changes: tuple[str, ...] = (),
    finetune_changes: tuple[str, ...] = (),
    image_labels: Path | None = None,
    allow_unlabelled: bool = True,
    new_data_share: float = NEW_DATA_SHARE,
    margin: float = MARGIN,
    mlflow: str | None = None,
) -> Summary:
    """Train on stores as they are, and compare the result with the champion: retrain's second part.

    Args:
        run: Folder of the retraining, to make or to go on in; champion.json is beside it.
        stores: The stores by stage, pretrain and finetune: folders or URLs.
        labels: train.csv in RATIC's form.
        split: Split file, to which new patients are appended.
        pretrain_recipe: Name of a pretraining recipe, or the path of a .toml file.
        finetune_recipe: Name of a fine-tuning recipe, or the path of a .toml file.
        pretrain_changes: Changes of the pretraining recipe, each NAME=VALUE.
        finetune_changes: Changes of the fine-tuning recipe, each NAME=VALUE.
        image_labels: image_level_labels.csv of RATIC, for recipes with slice_weight.
        allow_unlabelled: Leave out and count patients without labels instead of refusing the store.
        new_data_share: Pretrain if this share of the series is new to the champion's backbone.
        margin: How much worse than the champion the score may be at the end of its interval.
        mlflow: MLflow server that gets a copy of the runs, or local; by default none.
    """
    request = RetrainingRequest(
        labels, pretrain_recipe, finetune_recipe, pretrain_changes, finetune_changes,
        image_labels, allow_unlabelled, new_data_share,
    )  # fmt: skip
    pins = read_pins(run)  # of a try that was stopped
    if pins is None:
        update_split(stores["finetune"], labels, split, finetune_recipe, finetune_changes)
        pins = pin_retraining(run, request, stores, split)
    if pins is None:
        return publish("train", describe_outcome(run), link=run.parent)
    pretrain_and_finetune(pins, request)
    scores = evaluate(run / "finetune", run / "evaluate", resume=is_evaluated(run))
    outcome = choose_champion(pins, margin)
    return publish("train", {**scores, **outcome, **copy_to_mlflow(run.parent, mlflow)}, link=run)


def pretrain_and_finetune(pins: RetrainingPins, request: RetrainingRequest) -> None:
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
