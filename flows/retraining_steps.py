"""The tasks of the flow `retrain`: checks, pins, the champion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.ids import patient_pseudonymiser
from flows.retries import worth_retrying
from flows.summary import Summary, to_json_values
from voco_data import ingest
from voco_data.errors import InputError
from voco_data.ingest import IngestOptions
from voco_models import tracking

if TYPE_CHECKING:  # a server deploys the flow without PyTorch
    from voco_models.tracking import RetrainingPins, RetrainingRequest

ID_LENGTH = 12
"""The last hex digits of a flow run's id. The first ones are a time in new versions of Prefect."""


def run_folder(runs: Path) -> Path:
    """`runs/retrain-<UTC time>-<id>`: scheduled start and id of the flow run.

    A retry finds the same folder. Two flow runs have two folders, also of one second.
    """
    due, run_id = flow_run.scheduled_start_time, str(flow_run.id).replace("-", "")
    return runs / f"retrain-{due:%Y%m%d-%H%M%S}-{run_id[-ID_LENGTH:]}"


@task(name="check retraining", cache_policy=NO_CACHE)
def check_retraining(
    request: RetrainingRequest,
    runs: Path,
    margin: float,
    profiles: dict[str, str],
    options: dict[str, Any],
) -> None:
    """Raise InputError, before anything is read from the archive, if training could not begin."""
    tracking.check_request(request, runs, margin)
    names = [spec.profile for spec in ingest.choose_specs(IngestOptions(**options))]
    for stage, name in profiles.items():
        if name not in names:
            raise InputError(
                f"{stage}_profile: expected one of the specs {', '.join(names)}, got {name}"
            )


@task(
    name="pin retraining",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def pin_retraining(
    run: Path, request: RetrainingRequest, stores: dict[str, str], split: Path
) -> RetrainingPins | None:
    """Fix rows, split, labels and backbone; None if nothing changed since the last retraining."""
    pseudonymise = patient_pseudonymiser(stores["finetune"])
    return tracking.pin_retraining(run, request, stores, split, pseudonymise)


@task(
    name="choose champion",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=60,
    retry_condition_fn=worth_retrying,
)
def choose_champion(pins: RetrainingPins, margin: float) -> Summary:
    """Compare the new run with the champion; promote it, or keep it as a challenger."""
    return to_json_values(tracking.conclude_retraining(pins, margin))


def describe_nothing_new(runs: Path) -> Summary:
    """The summary of a flow run that had nothing to learn."""
    champions = tracking.read_champions(runs)
    last = champions.last.run if champions.last else None
    return {
        "retrained": False,
        "reason": f"series, labels and recipes are those of {last}",
        "champion": champions.champion,
    }
