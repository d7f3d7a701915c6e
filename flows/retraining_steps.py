"""The tasks of the flow `retrain`: checks, pins, the champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.ids import patient_pseudonymiser
from flows.parameter_types import StoreLocation
from flows.retries import worth_retrying
from flows.summary import Summary, to_json_values
from voco_data import ingest
from voco_data.errors import InputError, VocoError
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
    return runs.absolute() / f"retrain-{due:%Y%m%d-%H%M%S}-{run_id[-ID_LENGTH:]}"


@task(name="check retraining", cache_policy=NO_CACHE)
def check_retraining(
    request: RetrainingRequest,
    runs: Path,
    margin: float,
    profiles: dict[str, str],
    options: dict[str, Any],
    mlflow: str | None,
) -> None:
    """Raise InputError, before anything is read from the archive, if training could not begin.

    On a machine without torch, which only preprocesses, the recipes are checked by the flow train.
    So is the address of MLflow on a machine without its package.
    """
    tracking.check_request(request, runs, margin)
    if mlflow is not None and find_spec("mlflow") is not None:
        tracking.check_address(mlflow)
    if find_spec("torch") is not None:
        tracking.check_recipes(request)
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
    run: Path, request: RetrainingRequest, stores: Mapping[str, StoreLocation], split: Path
) -> RetrainingPins | None:
    """Fix rows, split, labels and backbone; None if nothing changed since the last retraining."""
    pseudonymise = patient_pseudonymiser(stores["finetune"])
    places = {stage: str(store) for stage, store in stores.items()}
    return tracking.pin_retraining(run, request, places, split, pseudonymise)


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


@task(name="copy to MLflow", cache_policy=NO_CACHE)
def copy_to_mlflow(runs: Path, mlflow: str | None) -> Summary:
    """Copy the finished retrainings to an MLflow server.

    A server that is away does not fail a retraining: this is logged, and the next copy has all.
    """
    if mlflow is None:
        return {}
    try:
        return {"mlflow": to_json_values(asdict(tracking.mirror_champions(runs, mlflow)))}
    except VocoError as error:
        get_run_logger().warning("%s", error)
        return {"mlflow": {"error": str(error)}}


def describe_outcome(run: Path) -> Summary:
    """The summary of a retraining that has ended, in the folder `run`, or had nothing to learn."""
    pins = tracking.read_pins(run)
    if pins is None:
        return tracking.describe_nothing_new(run.parent)
    return to_json_values(tracking.describe_retraining(pins))
