"""run + store → slices and places that the run uses: the flow `explain`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import PositiveInt

from flows.artifacts import publish
from flows.parameter_types import StoreLocation
from flows.retries import worth_retrying
from flows.run_names import name_run
from flows.summary import Summary, to_json_values
from voco_models import stages


@task(
    name="explain run",
    cache_policy=NO_CACHE,  # a rerun replaces the results
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def explain_run(
    run: Path, store: StoreLocation, out: Path, patients: int, image_labels: Path | None
) -> Summary:
    """Curves over slices, maps and the pointing game of the test patients of a run."""
    summary = stages.explain(run, store, out, patients=patients, image_labels=image_labels)
    return to_json_values(summary.to_json())


@flow(name="explain", flow_run_name=name_run)
def explain(
    run: Path,
    store: StoreLocation,
    out: Path,
    patients: PositiveInt = 6,
    image_labels: Path | None = None,
) -> Summary:
    """Show which slices and places a finished fine-tuning run uses for its test patients.

    Args:
        run: Folder of a finished fine-tuning run.
        store: Store that the run learnt from: a folder or a URL.
        out: Where to write; an earlier explanation there is replaced.
        patients: Patients on the page: those with known boxes of organs come first.
        image_labels: image_level_labels.csv of RATIC, for runs that grade bowel or extravasation.
    """
    summary = explain_run(run, store, out, patients, image_labels)
    publish("explain", summary, link=summary["page"])
    return summary
