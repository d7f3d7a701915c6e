"""stores → pretrained backbone: the flow `pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.parameters import StoreLocation
from flows.retries import PRETRAINED, stopped_before
from flows.summary import Summary, plain


# Called, never submitted: a stop signal then reaches the training loop, which saves and leaves.
@task(name="pretrain backbone", cache_policy=NO_CACHE)
def pretrain_backbone(stores: list[StoreLocation], out: Path, **options: Any) -> Summary:
    """Train student and teacher; checkpoints land in the run folder `out`."""
    from voco_models.stages import (
        pretrain as stage,  # here: a machine without torch can still deploy
    )

    return plain(stage.pretrain(stores, out, **options).to_json())


@flow(name="pretrain")
def pretrain(
    stores: list[StoreLocation],
    out: Path,
    recipe: str = "default",
    max_steps: int | None = None,
    resume: bool = False,
    resident: Literal["none", "ram", "device"] = "none",
) -> Summary:
    """Pretrain a 2D backbone on CT volumes without labels (2D-VoCo).

    Args:
        stores: Stores of one spec: folders or URLs.
        out: Run folder to make, or to go on in.
        recipe: Name of a pretraining recipe.
        max_steps: Stop after so many steps; the schedule's horizon stays the recipe's.
        resume: Go on from the run's last checkpoint.
        resident: Keep all volumes in memory, in RAM or on the device.
    """
    resume = resume or stopped_before(out / PRETRAINED)
    summary = pretrain_backbone(
        stores, out, recipe=recipe, max_steps=max_steps, resume=resume, resident=resident
    )
    publish("pretrain", summary, link=out)
    return summary
