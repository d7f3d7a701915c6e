"""stores → pretrained backbone: the flow `pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.parameter_types import PretrainRecipeName, StoreLocation
from flows.retries import PRETRAINED, was_interrupted
from flows.run_names import name_run
from flows.summary import Summary, to_json_values
from voco_data.store import choose_stores
from voco_models import stages


# The flow calls this task and does not submit it: only in the main thread does a stop signal reach
# the training loop, which then saves a checkpoint and ends.
@task(name="pretrain backbone", cache_policy=NO_CACHE)
def pretrain_backbone(stores: list[StoreLocation], out: Path, **options: Any) -> Summary:
    """Train student and teacher; checkpoints land in the run folder `out`."""
    return to_json_values(stages.pretrain(stores, out, **options).to_json())


@flow(name="pretrain", flow_run_name=name_run)
def pretrain(
    stores: list[StoreLocation],
    out: Path,
    init: str = "scratch",
    recipe: PretrainRecipeName = "default",
    changes: tuple[str, ...] = (),
    split: Path | None = None,
    transductive: bool = False,
    max_steps: int | None = None,
    resume: bool = False,
    resident: Literal["none", "ram", "device"] = "none",
    rows: Path | None = None,
) -> Summary:
    """Pretrain a 2D backbone on CT volumes without labels (2D-VoCo).

    Args:
        stores: Stores of one spec, roots or patterns: folders or URLs; ROOT/latest for the latest.
        out: Run folder to make, or to go on in.
        init: First weights of the backbone: scratch, imagenet, a file, or the folder of a run.
        recipe: Name of a pretraining recipe, or the path of a .toml file.
        changes: Changes of the recipe, each NAME=VALUE, such as fit.lr=1e-3.
        split: File of voco split, whose test patients are left out.
        transductive: Keep the test patients in; scores on them are then transductive.
        max_steps: Stop after so many steps; the schedule's horizon stays the recipe's.
        resume: Go on from the run's last checkpoint.
        resident: Keep all volumes in memory, in RAM or on the device.
        rows: File of a retraining, rows.json, that names the rows to learn from.
    """
    resume = resume or was_interrupted(out / PRETRAINED)
    summary = pretrain_backbone(
        choose_stores(stores, "pretrain"),
        out,
        rows=rows,
        recipe=recipe,
        changes=changes,
        split=split,
        transductive=transductive,
        max_steps=max_steps,
        resume=resume,
        resident=resident,
        init=init,
    )
    publish("pretrain", summary, link=out)
    return summary
