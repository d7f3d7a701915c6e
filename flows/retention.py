"""stores, runs → what is old is removed: the flow `retention`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.parameter_types import StoreLocation
from flows.retention_steps import KEEP_RUNS, remove_what_is_old
from flows.retries import worth_retrying
from flows.run_names import name_run
from flows.summary import Summary, to_json_values


@task(
    name="remove what is old",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def remove_old(
    root: StoreLocation,
    runs: Path | None,
    keep_runs: int,
    days: int | None,
    yes: bool,
    wait: float,
) -> Summary:
    """List old ledgers, reports, retrainings and checkpoints, and remove them."""
    return to_json_values(
        remove_what_is_old(root, runs, keep_runs=keep_runs, days=days, yes=yes, wait=wait)
    )


@flow(name="retention", flow_run_name=name_run)
def retention(
    root: StoreLocation,
    runs: Path | None = None,
    keep_runs: int = KEEP_RUNS,
    days: int | None = None,
    yes: bool = False,
    wait: float = 0.0,
) -> Summary:
    """Remove old ledgers, reports and retrainings; without yes, only list them.

    Args:
        root: Folder of the stores, s3://bucket/prefix or az://container/prefix.
        runs: Folder of retrainings with champion.json.
        keep_runs: The last ledgers and reports of preprocess runs that stay.
        days: Retrainings that changed in so many last days stay; by default 90.
        yes: Remove it.
        wait: Seconds to wait for a store that another run is filling.
    """
    summary = remove_old(root, runs, keep_runs, days, yes, wait)
    publish("retention", summary, link=runs or root)
    return summary
