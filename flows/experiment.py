"""declaration → runs → tables: the flow `experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.ids import patient_pseudonymiser
from flows.summary import Summary, to_json_values
from voco_models import experiments

if TYPE_CHECKING:  # they import torch, which a machine that only deploys need not have
    from voco_models.experiments import ProjectionTrial, Trial


# The flow calls this task and does not submit it: only in the main thread does a stop signal reach
# the training loop, which then saves a checkpoint and ends.
@task(name="run trial", task_run_name="{trial.name}", cache_policy=NO_CACHE)
def run_trial(
    trial: Trial | ProjectionTrial, store: str, resident: Literal["none", "ram", "device"]
) -> str:
    """Train and score what the trial lacks; returns whether it was reused."""
    pseudonymise = patient_pseudonymiser(store)
    return experiments.run_trial(trial, resident=resident, pseudonymise=pseudonymise)


@flow(name="experiment")
def experiment(file: Path, resident: Literal["none", "ram", "device"] = "none") -> Summary:
    """Train and compare arms, seeds and fractions of labels or masks; reuse what exists.

    Args:
        file: The declaration of the experiment, in TOML.
        resident: Keep all volumes in memory, in RAM or on the device.
    """
    declared = experiments.read_experiment(file)
    results = experiments.run_experiment(
        declared,
        run=lambda trial: run_trial(trial, declared.store, resident),
        pseudonymise=patient_pseudonymiser(declared.store),
    )
    summary = to_json_values(results.to_json())
    publish("experiment", summary, link=str(summary["report"]))
    return summary
