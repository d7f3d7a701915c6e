"""stores → 3D-to-2D networks: the flow `project`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.parameter_types import ProjectionRecipeName, StoreLocation
from flows.retries import PRETRAINED, was_interrupted
from flows.run_names import name_run
from flows.summary import Summary, to_json_values
from voco_data.store import choose_stores
from voco_models import stages


# The flow calls this task and does not submit it: only in the main thread does a stop signal reach
# the training loop, which then saves a checkpoint and ends.
@task(name="train projection networks", cache_policy=NO_CACHE)
def train_networks(stores: list[StoreLocation], out: Path, **options: Any) -> Summary:
    """Train the networks of both planes; checkpoints land in the run folder `out`."""
    return to_json_values(stages.project(stores, out, **options).to_json())


@flow(name="project", flow_run_name=name_run)
def project(
    stores: list[StoreLocation],
    out: Path,
    init: str = "scratch",
    images: Path | None = None,
    recipe: ProjectionRecipeName = "default",
    changes: tuple[str, ...] = (),
    split: Path | None = None,
    transductive: bool = False,
    max_steps: int | None = None,
    resume: bool = False,
    resident: Literal["none", "ram", "device"] = "none",
) -> Summary:
    """Train 3D-to-2D networks: maps of organs from masks, or a second image without masks.

    Args:
        stores: Stores of one spec, such as localise, roots or patterns: folders or URLs.
        out: Run folder to make, or to go on in.
        init: First weights: scratch, or the folder of another run.
        images: Folder or table of second images, for the change target=image.
        recipe: Name of a projection recipe, or the path of a .toml file.
        changes: Changes of the recipe, each NAME=VALUE, such as target=mean.
        split: File of voco split, whose test patients are left out.
        transductive: Keep the test patients in.
        max_steps: Stop after so many steps; the schedule's horizon stays the recipe's.
        resume: Go on from the run's last checkpoint.
        resident: Keep all volumes in memory, in RAM or on the device.
    """
    resume = resume or was_interrupted(out / PRETRAINED)
    summary = train_networks(
        choose_stores(stores, "localise"),
        out,
        init=init,
        images=images,
        recipe=recipe,
        changes=changes,
        split=split,
        transductive=transductive,
        max_steps=max_steps,
        resume=resume,
        resident=resident,
    )
    publish("project", summary, link=out)
    return summary
