"""run + store → boxes of organs for preprocessing: the flow `localise`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import NonNegativeFloat, NonNegativeInt

from flows.archive_masks import open_masks
from flows.artifacts import publish
from flows.parameter_types import StoreLocation
from flows.retries import worth_retrying
from flows.run_names import name_run
from flows.summary import Summary, to_json_values
from voco_data.ingest import LayoutName
from voco_data.store import choose_store
from voco_models import stages


@task(
    name="find boxes",
    cache_policy=NO_CACHE,  # a rerun replaces the table
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def find_boxes(
    run: Path,
    store: StoreLocation,
    out: Path,
    box: str,
    margin_mm: float,
    *,
    score: bool,
    trained_on: Sequence[StoreLocation],
    archive: Path | None,
    layout: LayoutName,
    pictures: int,
) -> Summary:
    """A box of every series of the store, from the maps of the run's networks."""
    summary = stages.localise(
        run,
        store,
        out,
        box=box,
        margin_mm=margin_mm,
        score=score,
        masks=open_masks(archive, store, layout),
        trained_on=trained_on,
        pictures=pictures,
    )
    return to_json_values(summary.to_json())


@flow(name="localise", flow_run_name=name_run)
def localise(
    run: Path,
    store: StoreLocation,
    out: Path,
    box: str = "abdomen",
    margin_mm: NonNegativeFloat = 15.0,
    score: bool = False,
    trained_on: Sequence[StoreLocation] = (),
    archive: Path | None = None,
    layout: LayoutName = "auto",
    pictures: NonNegativeInt = 0,
) -> Summary:
    """Find the abdomen or an organ in all series of a store, for the option boxes of preprocess.

    Args:
        run: Folder of a finished run of the flow project, with the target organs.
        store: A store of the spec that the run was trained on, or a root: a folder or a URL.
        out: The table to write, .csv or .parquet.
        box: abdomen, kidney (both), or an organ of the run.
        margin_mm: Added on all sides of the box.
        score: Compare the boxes with the masks of patients that the run has not learnt from.
        trained_on: With score, the stores of the run, if store is another one, for the mean box.
        archive: With score, the archive of the store: count the voxels that the boxes keep.
        layout: How the archive is laid out; auto finds out.
        pictures: Write a page beside the table with so many series, the least certain first.
    """
    summary = find_boxes(
        run,
        choose_store(store, "localise"),
        out,
        box,
        margin_mm,
        score=score,
        trained_on=trained_on,
        archive=archive,
        layout=layout,
        pictures=pictures,
    )
    publish("localise", summary, link=summary.get("page", out))
    return summary
