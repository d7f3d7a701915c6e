"""archive → stores → backbone → classifier → champion: the flow `retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows.artifacts import publish
from flows.ingest_parameters import with_ingest_parameters
from flows.other_pools import run_in_its_pool
from flows.parameter_types import FinetuneRecipeName, PretrainRecipeName, StoreLocation
from flows.preprocess import preprocess
from flows.retraining_steps import check_retraining, describe_outcome, run_folder
from flows.summary import Summary
from flows.train import train
from voco_models.tracking import MARGIN, NEW_DATA_SHARE, RetrainingRequest, read_pins

SPLIT = "split.json"
"""The one split file of all retrainings, in the folder of their runs."""


@flow(name="retrain")
@with_ingest_parameters
def retrain(
    source: Path,
    root: StoreLocation,
    labels: Path,
    runs: Path,
    pretrain_recipe: PretrainRecipeName = "default",
    finetune_recipe: FinetuneRecipeName = "default",
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
    train_deployment: str | None = None,
    mlflow: str | None = None,
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
        train_deployment: Deployment of the flow train, whose pool trains; by default this process.
        mlflow: MLflow server that gets a copy of the runs, or local; by default none.
    """
    run, split = run_folder(runs), split or runs / SPLIT
    request = RetrainingRequest(
        labels, pretrain_recipe, finetune_recipe, pretrain_changes, finetune_changes,
        image_labels, allow_unlabelled, new_data_share,
    )  # fmt: skip
    pins = read_pins(run)  # of a try that was stopped
    if pins is None:
        profiles = {"pretrain": pretrain_profile, "finetune": finetune_profile}
        check_retraining(request, runs, margin, profiles, options, mlflow)
        made = preprocess(source, root, wait=wait, **options)["stores"]
        stores = {stage: made[name] for stage, name in profiles.items()}
    else:
        stores = dict(pins.stores)
    given = request.to_parameters() | {"run": run, "stores": stores, "split": split}
    given |= {"margin": margin, "mlflow": mlflow}
    if train_deployment is None:
        summary = train(**given)
    else:
        run_in_its_pool(train_deployment, given)
        summary = describe_outcome(run)
    return publish("retrain", summary, link=run if run.exists() else runs)
