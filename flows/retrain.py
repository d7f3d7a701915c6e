"""archive → stores → backbone → classifier → scores: the flow `retrain`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.artifacts import publish
from flows.evaluate import evaluate
from flows.finetune import finetune
from flows.parameter_types import StoreLocation
from flows.preprocess import preprocess
from flows.pretrain import pretrain
from flows.retries import EVALUATED, FINETUNED, PRETRAINED
from flows.split import update_split
from flows.summary import Summary
from voco_data.ingest import LayoutName

SPLIT = "split.json"
"""The one split file of all retrainings, in the folder of their runs."""


def run_folder(runs: Path) -> Path:
    """`runs/retrain-<UTC time>`: of the scheduled start, so that a retry finds the same folder."""
    due = flow_run.scheduled_start_time
    return runs / f"retrain-{due:%Y%m%d-%H%M%S}"


def is_evaluated(run: Path) -> bool:
    """Whether an earlier try of this retraining opened the test set: then this one is a retry."""
    return (run / "evaluate" / EVALUATED).exists()


@flow(name="retrain")
def retrain(
    source: Path,
    root: StoreLocation,
    labels: Path,
    runs: Path,
    layout: LayoutName = "auto",
    pretrain_recipe: str = "default",
    finetune_recipe: str = "default",
    pretrain_changes: tuple[str, ...] = (),
    finetune_changes: tuple[str, ...] = (),
    image_labels: Path | None = None,
    split: Path | None = None,
    allow_unlabelled: bool = False,
    wait: float = 3600.0,
) -> Summary:
    """Preprocess what is new, then pretrain, fine-tune and evaluate from the start.

    Args:
        source: Folder with DICOM or NIfTI files.
        root: Folder of the stores, s3://bucket/prefix or az://container/prefix.
        labels: train.csv in RATIC's form.
        runs: Folder that gets one run folder for each retraining.
        layout: How source is laid out; auto finds out.
        pretrain_recipe: Name of a pretraining recipe, or the path of a .toml file.
        finetune_recipe: Name of a fine-tuning recipe, or the path of a .toml file.
        pretrain_changes: Changes of the pretraining recipe, each NAME=VALUE.
        finetune_changes: Changes of the fine-tuning recipe, each NAME=VALUE.
        image_labels: image_level_labels.csv of RATIC, for recipes with slice_weight.
        split: Split file, to which new patients are appended; by default split.json in runs.
        allow_unlabelled: Leave out patients without labels instead of refusing the store.
        wait: Seconds to wait for a store that another run is filling.
    """
    run, split = run_folder(runs), split or runs / SPLIT
    stores = preprocess(source, root, layout=layout, wait=wait)["stores"]
    update_split(stores["finetune"], labels, split, finetune_recipe, finetune_changes)
    pretrain(
        [stores["pretrain"]],
        run / "pretrain",
        recipe=pretrain_recipe,
        changes=pretrain_changes,
        split=split,
        resume=(run / "pretrain" / PRETRAINED).exists(),
    )
    finetune(
        stores["finetune"],
        labels,
        run / "finetune",
        init=str(run / "pretrain"),
        recipe=finetune_recipe,
        changes=finetune_changes,
        image_labels=image_labels,
        split=split,
        resume=(run / "finetune" / FINETUNED).exists(),
        allow_unlabelled=allow_unlabelled,
    )
    summary = evaluate(run / "finetune", run / "evaluate", resume=is_evaluated(run))
    return publish("retrain", summary, link=run)
