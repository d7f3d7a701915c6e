"""archive → stores: the flow `preprocess`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Unpack

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.parameter_types import StoreLocation
from flows.retries import worth_retrying
from flows.summary import Summary, to_json_values
from voco_data import ingest
from voco_data.ingest import IngestChanges, LayoutName, UnevenPolicy


@task(
    name="preprocess archive",
    cache_policy=NO_CACHE,  # the stage skips what the stores already contain
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def preprocess_archive(
    source: Path, root: StoreLocation, **options: Unpack[IngestChanges]
) -> Summary:
    """Index, read, crop, resample and store; spreads over processes or Dask by itself."""
    options["progress"] = sys.stderr.isatty()  # a bar on a terminal only
    return to_json_values(ingest.preprocess(source, root, **options).to_json())


@flow(name="preprocess")
def preprocess(
    source: Path,
    root: StoreLocation,
    layout: LayoutName = "auto",
    specs: tuple[str, ...] = ("pretrain", "finetune"),
    spec_file: Path | None = None,
    workers: int | None = None,
    dask: str | None = None,
    boxes: Path | None = None,
    uneven: UnevenPolicy | None = None,
    keep_ids: bool = False,
    deep: bool = False,
    wait: float = 0.0,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> Summary:
    """Bring the stores under root up to date with an archive; what is stored is not redone.

    Args:
        source: Folder with DICOM or NIfTI files.
        root: Folder of the stores, s3://bucket/prefix or az://container/prefix.
        layout: How source is laid out; auto finds out.
        specs: Names of built-in store specs.
        spec_file: JSON file with store specs of your own, instead of specs.
        workers: Local processes; by default as many as the machine allows.
        dask: Address of a Dask scheduler, or local, instead of workers.
        boxes: Table of boxes made elsewhere, by series id.
        uneven: What to do with missing and uneven slices, whatever the specs say.
        keep_ids: Keep patient and series ids instead of pseudonyms.
        deep: Re-read every file instead of trusting size and time stamp.
        wait: Seconds to wait for a store that another run is filling.
        include: Only paths that match one of these patterns.
        exclude: No path that matches one of these patterns.
    """
    summary: Summary = preprocess_archive(**locals())  # no other local variable is defined here
    publish("preprocess", summary, link=summary["report"])
    return summary
