"""run → scores and report: the flow `evaluate`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.retries import worth_retrying
from flows.summary import Summary, to_json_values
from voco_models import stages


@task(
    name="score run",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def score_run(run: Path, out: Path | None) -> Summary:
    """Scores with intervals, calibration, plots and a report of one fine-tuning run."""
    return to_json_values(stages.evaluate(run, out).to_json())


@flow(name="evaluate")
def evaluate(run: Path, out: Path | None = None) -> Summary:
    """Evaluate a fine-tuning run on its test patients.

    Args:
        run: Folder of a fine-tuning run.
        out: Where to write; by default inside the run's folder.
    """
    summary = score_run(run, out)
    publish("evaluate", summary, link=summary["report"])
    return summary
