"""run → scores and report: the flow `evaluate`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.retries import EVALUATED, was_interrupted, worth_retrying
from flows.run_names import name_run
from flows.summary import Summary, to_json_values
from voco_models import stages


@task(
    name="score run",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def score_run(run: Path, out: Path | None, again: bool, resume: bool) -> Summary:
    """Scores with intervals, calibration, plots and a report of one fine-tuning run."""
    return to_json_values(stages.evaluate(run, out, again=again, resume=resume).to_json())


@task(
    name="compare runs",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def compare_runs(run: Path, against: Path, out: Path | None) -> Summary:
    """Paired differences between the scores of two fine-tuning runs."""
    return to_json_values(stages.compare_runs(run, against, out).to_json())


@flow(name="evaluate", flow_run_name=name_run)
def evaluate(
    run: Path,
    out: Path | None = None,
    again: bool = False,
    resume: bool = False,
    against: Path | None = None,
) -> Summary:
    """Evaluate a fine-tuning run on its test patients, or compare it with another run.

    Args:
        run: Folder of a fine-tuning run.
        out: Where to write; by default inside the run's folder.
        again: Look at the test set another time; looks are counted.
        resume: Make an evaluation to the same folder again, without another look.
        against: Another run: compare both on the test patients that neither was trained on.
    """
    if against is not None:
        summary = compare_runs(run, against, out)
    else:
        resume = resume or was_interrupted((out or run) / EVALUATED)
        summary = score_run(run, out, again, resume)
    publish("evaluate", summary, link=summary["report"])
    return summary
