"""archive → stores: the flow `preprocess`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.ingest_parameters import with_ingest_parameters
from flows.parameter_types import StoreLocation
from flows.retries import worth_retrying
from flows.summary import Summary, to_json_values
from voco_data import ingest


@task(
    name="preprocess archive",
    cache_policy=NO_CACHE,  # the stage skips what the stores already contain
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def preprocess_archive(source: Path, root: StoreLocation, **options: Any) -> Summary:
    """Index, read, crop, resample and store; spreads over processes or Dask by itself."""
    progress = sys.stderr.isatty()  # a bar on a terminal only
    return to_json_values(ingest.preprocess(source, root, **options, progress=progress).to_json())


@flow(name="preprocess")
@with_ingest_parameters
def preprocess(source: Path, root: StoreLocation, **options: Any) -> Summary:
    """Bring the stores under root up to date with an archive; what is stored is not redone.

    Args:
        source: Folder with DICOM or NIfTI files.
        root: Folder of the stores, s3://bucket/prefix or az://container/prefix.
    """
    # An error names the absolute path: the folder of a deployment is not known to who reads it.
    summary: Summary = preprocess_archive(source.absolute(), root, **options)
    publish("preprocess", summary, link=summary["report"])
    return summary
