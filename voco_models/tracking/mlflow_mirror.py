"""Copies of finished retrainings on an MLflow tracking server, with the alias `champion`.

RUNS/champion.json stays the only record. A copy that was lost or switched off is made again from
it. A copy holds digests, counts, scores and curves. It names no patient and no path of a machine,
and has no weights.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from voco_data.errors import InputError, VocoError
from voco_data.storage import locks
from voco_models.tracking.champions import (
    FINETUNE_FOLDER,
    PRETRAIN_FOLDER,
    Champions,
    RetrainedRun,
    is_tainted,
    read_champions,
)
from voco_models.tracking.scores import ScoredRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOCAL: Final = "local"
"""In place of a server's address: the database RUNS/mlflow.db."""
DATABASE: Final = "mlflow.db"
ALIAS: Final = "champion"
DEFAULT_NAME: Final = "voco"
SCHEMES: Final = ("http", "https", "sqlite")
RUN_TAG, FIRST_RUN_TAG = "voco.run", "voco.first_run"
LOCK_SECONDS = 600.0
"""Time to wait for another process that copies. A first copy of many runs takes minutes."""
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing of voco reports to anybody
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's 7 wait for minutes when a server is away
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_BATCH = 1000
"""Most metrics that one request may have."""


@dataclass(frozen=True, slots=True)
class MirroredRuns:
    """What a copy did."""

    place: str
    """Address of the server without user and password, or the path of the database."""
    name: str
    """Of the experiment and of the registered model."""
    runs: int
    """Runs on the server now."""
    added: int
    champion: str | None
    """Name of the run that has the alias."""


def mirror_champions(runs: Path, uri: str = LOCAL) -> MirroredRuns:
    """Copy the finished retrainings of RUNS to an MLflow server, and move the alias `champion`.

    `uri` is `local`, `http(s)://...` or `sqlite:///...`. Experiment and registered model have the
    name in the variable MLFLOW_EXPERIMENT_NAME, by default `voco`. Runs that are there already only
    get new tags; a copy that was interrupted is completed. Raises InputError for another form of
    address, a package that is missing, and an experiment of another folder of runs; VocoError if
    the server refuses, or is away.
    """
    check_address(uri)
    champions = read_champions(runs)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_NAME
    lock = locks.hold_lock(runs / ".mlflow.lock", wait_seconds=LOCK_SECONDS)
    with lock, _one_line_errors(uri):
        added = _Mirror(_connect(runs, uri), runs, champions, name).update()
    return MirroredRuns(
        place=_hide_password(uri) if uri != LOCAL else str(runs / DATABASE),
        name=name,
        runs=len(champions.runs),
        added=added,
        champion=champions.champion,
    )


def check_address(uri: str) -> None:
    """Raise InputError unless `uri` is one that `mirror_champions` takes, and MLflow is there."""
    if uri != LOCAL and urlsplit(uri).scheme not in SCHEMES:
        raise InputError(
            f"mlflow: expected {LOCAL}, or an address that begins with "
            f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}, got {_hide_password(uri)}"
        )
    try:
        _import_client()
    except ModuleNotFoundError as error:
        raise InputError(
            f"mlflow: the package {error.name} is missing; pip install 'voco[mlflow]'"
        ) from error


class _Mirror:
    """One copy: the client, and what it copies."""

    def __init__(self, client: MlflowClient, runs: Path, champions: Champions, name: str) -> None:
        self._client, self._runs, self._champions, self._name = client, runs, champions, name

    def update(self) -> int:
        """Bring the server up to date, and return how many runs are new to it."""
        if not self._champions.runs:
            return 0
        experiment = self._find_experiment()
        known = {run.data.tags.get(RUN_TAG): run for run in self._search(experiment)}
        versions = {version.run_id: version for version in self._search_versions()}
        added = 0
        for retrained in self._champions.runs:
            run = known.get(retrained.run)
            if run is None or run.info.status != "FINISHED":  # new, or interrupted
                added += run is None
                run = self._copy(retrained, run or self._start(experiment, retrained))
            self._update_tags(retrained, run)
            run_id = run.info.run_id
            if run_id not in versions:
                source = f"voco:/{retrained.run}/{FINETUNE_FOLDER}"  # in RUNS
                versions[run_id] = self._client.create_model_version(self._name, source, run_id)
            if retrained.run == self._champions.champion:
                self._move_alias(versions[run_id].version)
        return added

    def _find_experiment(self) -> str:
        """Id of the experiment, which is made if there is none; likewise the model."""
        first = self._champions.runs[0].run
        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            identity = self._client.create_experiment(self._name, tags={FIRST_RUN_TAG: first})
            if not self._client.search_registered_models(f"name = '{self._name}'"):
                self._client.create_registered_model(self._name)
            return identity
        if found.tags.get(FIRST_RUN_TAG) != first:
            raise InputError(
                f"mlflow: the experiment {self._name} holds other runs than those of {self._runs}; "
                "give another name in the variable MLFLOW_EXPERIMENT_NAME"
            )
        return str(found.experiment_id)

    def _search(self, experiment: str) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs([experiment], page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _search_versions(self) -> list[Any]:
        return list(
            self._client.search_model_versions(f"name = '{self._name}'", max_results=10_000)
        )

    def _start(self, experiment: str, retrained: RetrainedRun) -> Run:
        finished = _milliseconds(retrained.finished)
        return self._client.create_run(
            experiment, finished, {RUN_TAG: retrained.run}, run_name=retrained.run
        )

    def _copy(self, retrained: RetrainedRun, run: Run) -> Run:
        """Copy parameters, scores and curves. A second copy of the same values changes nothing."""
        run_id, finished = run.info.run_id, _milliseconds(retrained.finished)
        for key, value in _parameters(retrained).items():
            self._client.log_param(run_id, key, value)
        event = next(event for event in self._champions.history if event.run == retrained.run)
        metrics = [(key, value, 0) for key, value in _scores(event.scored).items()]
        metrics += _curves(self._runs / retrained.run)
        self._log(run_id, metrics, finished)
        self._client.set_terminated(run_id, "FINISHED", finished)
        return run

    def _log(self, run_id: str, metrics: list[tuple[str, float, int]], time: int) -> None:
        from mlflow.entities import Metric

        entities = [Metric(key, value, time, step) for key, value, step in metrics]
        for start in range(0, len(entities), _BATCH):
            self._client.log_batch(run_id, metrics=entities[start : start + _BATCH])

    def _update_tags(self, retrained: RetrainedRun, run: Run) -> None:
        """Set what may have changed since: the status, the last reason, a taint."""
        events = [e for e in self._champions.history if e.run == retrained.run]
        wanted = {
            "voco.status": self._champions.status(retrained.run),
            "voco.decision": events[-1].event,
            "voco.reason": events[-1].reason,
            "voco.tainted": str(is_tainted(self._runs, self._champions, retrained.run)).lower(),
        }
        for key, value in wanted.items():
            if run.data.tags.get(key) != value:
                self._client.set_tag(run.info.run_id, key, value)

    def _move_alias(self, version: str) -> None:
        aliases = self._client.get_registered_model(self._name).aliases
        if str(aliases.get(ALIAS)) != str(version):
            self._client.set_registered_model_alias(self._name, ALIAS, str(version))


def _parameters(retrained: RetrainedRun) -> dict[str, Any]:
    learnt = retrained.learnt
    counts = {} if learnt is None else {
        "patients": learnt.patients,
        "unlabelled": learnt.unlabelled,
        "series": learnt.series,
        "new_series": learnt.new_series,
    }  # fmt: skip
    digests = {f"digest.{name}": digest for name, digest in retrained.digests.items()}
    return {"backbone": retrained.backbone, **counts, **digests}


def _scores(scored: ScoredRun | None) -> dict[str, float]:
    """The deciding score of the run, of the champion then, and their difference, with intervals."""
    if scored is None:
        return {}
    values: dict[str, float] = {"test_patients": scored.patients}
    for prefix, interval in (
        (scored.score, scored.run),
        (f"champion.{scored.score}", scored.champion),
        (f"difference.{scored.score}", scored.difference),
    ):
        if interval is not None:
            values[prefix] = interval.value
            values[f"{prefix}.low"], values[f"{prefix}.high"] = interval.low, interval.high
    return values


def _curves(folder: Path) -> list[tuple[str, float, int]]:
    """The rows of all tables `history.csv` of a retraining, as `stage.fold-0.loss`."""
    from voco_models.training import HISTORY, read_history

    found = []
    for stage in (PRETRAIN_FOLDER, FINETUNE_FOLDER):
        for path in sorted((folder / stage).rglob(HISTORY)):
            prefix = ".".join(path.parent.relative_to(folder).parts)
            for row in read_history(path.parent):
                step = int(row.pop("step"))
                found += [
                    (f"{prefix}.{name}", value, step)
                    for name, value in row.items()
                    if math.isfinite(value)
                ]
    return found


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def _import_client() -> type[MlflowClient]:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # at INFO, each line of a new database's making
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient


def _connect(runs: Path, uri: str) -> MlflowClient:
    address = f"sqlite:///{(runs / DATABASE).absolute()}" if uri == LOCAL else uri
    return _import_client()(tracking_uri=address, registry_uri=address)


@contextmanager
def _one_line_errors(uri: str) -> Iterator[None]:
    """Raise what MLflow, its HTTP client and its database raise as a VocoError of one line."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise VocoError(
            f"mlflow: the runs could not be copied to {_hide_password(uri)}: "
            f"{lines[0].replace(uri, _hide_password(uri))}; RUNS/champion.json holds them"
        ) from error


def _hide_password(uri: str) -> str:
    """An address without the user and the password in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
