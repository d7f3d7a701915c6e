"""store + labels → classifier: the flow `finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.ids import patient_pseudonymiser
from flows.parameter_types import FinetuneRecipeName, StoreLocation
from flows.retries import FINETUNED, was_interrupted
from flows.run_names import name_run
from flows.summary import Summary, to_json_values
from voco_data.store import choose_store
from voco_models import stages


# The flow calls this task and does not submit it: only in the main thread does a stop signal reach
# the training loop, which then saves a checkpoint and ends.
@task(name="train classifier", cache_policy=NO_CACHE)
def train_classifier(store: StoreLocation, labels: Path, out: Path, **options: Any) -> Summary:
    """Train the folds; checkpoints and predictions land in the run folder `out`."""
    summary = stages.finetune(
        store, labels, out, pseudonymise=patient_pseudonymiser(store), **options
    )
    return to_json_values(summary.to_json())


@flow(name="finetune", flow_run_name=name_run)
def finetune(
    store: StoreLocation,
    labels: Path,
    out: Path,
    init: str = "scratch",
    recipe: FinetuneRecipeName = "default",
    changes: tuple[str, ...] = (),
    image_labels: Path | None = None,
    organ_boxes: Path | None = None,
    split: Path | None = None,
    transductive: bool = False,
    max_steps: int | None = None,
    resume: bool = False,
    allow_unlabelled: bool = False,
    resident: Literal["none", "ram", "device"] = "none",
    rows: Path | None = None,
) -> Summary:
    """Train the slice-sequence classifier on labelled patients.

    Args:
        store: Store of the fine-tuning spec, or a root: a folder or a URL; ROOT/latest.
        labels: train.csv in RATIC's form.
        out: Run folder to make, or to go on in.
        init: scratch, imagenet, or the folder of a pretraining run.
        recipe: Name of a fine-tuning recipe, or the path of a .toml file.
        changes: Changes of the recipe, each NAME=VALUE, such as lr=1e-3.
        image_labels: image_level_labels.csv of RATIC, for recipes with slice_weight.
        organ_boxes: Table of the flow localise, for the head organ_queries and series without mask.
        split: File of voco split; without it the run makes a split.
        transductive: Accept a backbone that was pretrained on test patients.
        max_steps: Stop after so many steps; the schedule's horizon stays the recipe's.
        resume: Go on from the run's last checkpoint.
        allow_unlabelled: Leave out patients without labels instead of refusing the store.
        resident: Keep all volumes in memory, in RAM or on the device.
        rows: File of a retraining, rows.json, that names the rows to learn from.
    """
    summary = train_classifier(
        choose_store(store, "finetune"),
        labels,
        out,
        rows=rows,
        init=init,
        recipe=recipe,
        changes=changes,
        image_labels=image_labels,
        organ_boxes=organ_boxes,
        split=split,
        transductive=transductive,
        max_steps=max_steps,
        resume=resume or was_interrupted(out / FINETUNED),
        allow_unlabelled=allow_unlabelled,
        resident=resident,
    )
    publish("finetune", summary, link=out)
    return summary
