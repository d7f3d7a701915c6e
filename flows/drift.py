"""champion + what came in since → alarms: the flow `drift`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.artifacts import publish
from flows.drift_steps import watch_champion
from flows.retries import worth_retrying
from flows.run_names import name_run
from flows.server_automations import DRIFT
from flows.summary import Summary, to_json_values


@task(
    name="compare with cohort",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def compare_with_cohort(
    runs: Path,
    out: Path | None,
    predictions: tuple[Path, ...],
    alpha: float | None,
    min_patients: int | None,
    min_effects: tuple[str, ...],
) -> Summary:
    """Compare scans, refusals and scores of new patients with those of the champion's cohort."""
    return to_json_values(
        watch_champion(
            runs,
            out,
            predictions=predictions,
            alpha=alpha,
            min_patients=min_patients,
            min_effects=min_effects,
        )
    )


@flow(name="drift", flow_run_name=name_run)
def drift(
    runs: Path,
    out: Path | None = None,
    predictions: tuple[Path, ...] = (),
    alpha: float | None = None,
    min_patients: int | None = None,
    min_effects: tuple[str, ...] = (),
) -> Summary | State[Summary]:
    """Compare what came in since the champion's cohort with this cohort; with alarms, end as Drift.

    Args:
        runs: Folder of retrainings with champion.json.
        out: Where to write the page; by default drift in runs.
        predictions: Folders that voco predict made with the champion, to compare scores.
        alpha: Chance of any alarm of one run without a drift; by default 0.01.
        min_patients: Fewest new patients, and patients of the cohort, to compare; by default 20.
        min_effects: Smallest differences that raise an alarm, each NAME=VALUE.
    """
    summary = compare_with_cohort(runs, out, predictions, alpha, min_patients, min_effects)
    publish("drift", summary, link=summary["report"])
    if not summary["alarms"]:
        return summary
    return Completed(name=DRIFT, message="; ".join(summary["alarms"]), data=summary)
