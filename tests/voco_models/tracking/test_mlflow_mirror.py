"""Copies of retrainings in MLflow, in a database and on a real server of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.support.object_server import free_port, running
from voco_data.errors import InputError, VocoError
from voco_data.withdrawal.taint import TAINTED
from voco_models.evaluation import Interval
from voco_models.tracking.champion_changes import record_run, roll_back
from voco_models.tracking.champions import Learnt, RetrainedRun, read_champions
from voco_models.tracking.mlflow_mirror import mirror_champions
from voco_models.tracking.promotion import Verdict
from voco_models.tracking.scores import ScoredRun

HISTORY = "step,lr,loss,seconds\n10,0.1,1.5,2.0\n20,0.05,nan,4.0\n"
MARCH_UTC_MS = 1_772_323_200_000
"""2026-03-01T00:00:00Z."""


def record(runs: Path, name: str, *, promoted: bool) -> None:
    fold = runs / name / "finetune" / "fold-0"
    fold.mkdir(parents=True)
    (fold / "history.csv").write_text(HISTORY)
    scored = ScoredRun("rsna_organ_3", 50, Interval(0.5, 0.4, 0.6))
    run = RetrainedRun(
        name,
        f"{name}/pretrain",
        "2026-03-01T00:00:00Z",
        {"rows": name},
        Learnt(40, 3, 60, 5, "new"),
    )
    verdict = Verdict(promoted, "as told", scored)
    record_run(runs, run, verdict, read_champions(runs).champion)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that holds MLflow's tables alone, which take seconds to make."""
    folder = tmp_path_factory.mktemp("database")
    record(folder, "one", promoted=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("voco_models.tracking.mlflow_mirror._Mirror.update", lambda _: 0)
        mirror_champions(folder)
    return folder / "mlflow.db"


@pytest.fixture
def runs(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """jan and mar were champions, feb a challenger."""
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    folder = tmp_path / "patient-runs"
    for name, promoted in (("jan", True), ("feb", False), ("mar", True)):
        record(folder, name, promoted=promoted)
    shutil.copy(database, folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server with a database of its own."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", str(folder / "artifacts"), "--workers", "1",
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with running(command, port, folder / "log", environment):
        yield f"http://127.0.0.1:{port}"


def client_of(place: str) -> MlflowClient:
    return MlflowClient(tracking_uri=place, registry_uri=place)


def local(runs: Path) -> MlflowClient:
    return client_of(f"sqlite:///{runs / 'mlflow.db'}")


def runs_of(client: MlflowClient, name: str = "voco") -> dict[str, Run]:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    by_name = {run.data.tags["voco.run"]: run for run in found}
    assert len(by_name) == len(found)
    return by_name


def champion_of(client: MlflowClient) -> str:
    version = client.get_model_version_by_alias("voco", "champion")
    assert version.run_id is not None
    name = client.get_run(version.run_id).data.tags["voco.run"]
    assert version.source == f"voco:/{name}/finetune"
    return name


@pytest.mark.parametrize("place", ["local", "server"])
def test_runs_and_champion_are_copied(
    runs: Path, place: str, request: pytest.FixtureRequest
) -> None:
    uri = place if place == "local" else request.getfixturevalue("server")
    copied = mirror_champions(runs, uri)
    assert (copied.runs, copied.added, copied.champion) == (3, 3, "mar")
    client = local(runs) if place == "local" else client_of(uri)
    found = runs_of(client)
    assert {name: run.data.tags["voco.status"] for name, run in found.items()} == {
        "jan": "former champion", "feb": "challenger", "mar": "champion"
    }  # fmt: skip
    jan = found["jan"]
    assert (jan.info.status, jan.info.end_time) == ("FINISHED", MARCH_UTC_MS)
    assert jan.data.params["digest.rows"] == "jan"
    assert (jan.data.params["patients"], jan.data.params["backbone"]) == ("40", "jan/pretrain")
    assert jan.data.metrics["rsna_organ_3"] == 0.5
    assert jan.data.metrics["rsna_organ_3.high"] == 0.6
    curve = client.get_metric_history(jan.info.run_id, "finetune.fold-0.loss")
    assert [(point.step, point.value) for point in curve] == [(10, 1.5)]  # NaN is no point
    assert champion_of(client) == "mar"

    roll_back(runs, "it was slow")
    (runs / "feb" / TAINTED).write_text("{}")
    again = mirror_champions(runs, uri)
    assert (again.added, again.champion) == (0, "jan")
    found = runs_of(client)
    assert champion_of(client) == "jan"
    assert found["jan"].data.tags["voco.reason"] == "it was slow"
    assert found["feb"].data.tags["voco.tainted"] == "true"
    assert len(client.get_metric_history(jan.info.run_id, "finetune.fold-0.loss")) == 1
    assert len(client.search_model_versions("name = 'voco'")) == 3


def test_a_copy_that_stopped_is_completed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:

        def stop(*_: object, **__: object) -> None:
            raise OSError("the network is away")

        patched.setattr(MlflowClient, "log_batch", stop)
        with pytest.raises(VocoError, match=r"to local: the network is away; RUNS/champion.json"):
            mirror_champions(runs)
    assert [run.info.status for run in runs_of(local(runs)).values()] == ["RUNNING"]
    assert mirror_champions(runs).added == 2
    found = runs_of(local(runs))
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert all(run.data.metrics["rsna_organ_3"] == 0.5 for run in found.values())


def test_runs_of_two_folders_are_kept_apart(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(runs / "mlflow.db", tmp_path / "shared.db")
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    mirror_champions(runs, uri)
    other = tmp_path / "other"
    record(other, "apr", promoted=True)
    with pytest.raises(InputError, match="MLFLOW_EXPERIMENT_NAME"):
        mirror_champions(other, uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "voco-b")
    assert mirror_champions(other, uri).name == "voco-b"
    assert list(runs_of(client_of(uri), "voco-b")) == ["apr"]


def test_nothing_is_copied_before_the_first_run(tmp_path: Path) -> None:
    copied = mirror_champions(tmp_path)
    assert (copied.runs, copied.champion) == (0, None)


@pytest.mark.parametrize("address", ["ftp://u:secret@server/x", "databricks", "server:5000"])
def test_other_addresses_are_refused(runs: Path, address: str) -> None:
    with pytest.raises(InputError, match="mlflow: expected local, or an address") as refused:
        mirror_champions(runs, address)
    assert "secret" not in str(refused.value)


def test_a_server_that_is_away_is_one_line(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(VocoError) as failed:
        mirror_champions(runs, f"http://user:secret@127.0.0.1:{free_port()}")
    assert "\n" not in str(failed.value)
    assert "secret" not in str(failed.value)


def test_a_copy_tells_nothing_of_the_machine(runs: Path) -> None:
    mirror_champions(runs)
    assert b"patient-runs" not in (runs / "mlflow.db").read_bytes()


def test_the_command_makes_a_lost_copy_again_and_calls_nobody(runs: Path) -> None:
    """MLflow reports its use to its makers, unless it is told not to."""
    mirror_champions(runs)
    (runs / "mlflow.db").unlink()
    code = (
        "import sys, time\n"
        "def hook(event, args):\n"
        "    if event in ('socket.getaddrinfo', 'socket.connect'):\n"
        "        print('CALLED', event, args[:2], file=sys.stderr)\n"
        "sys.addaudithook(hook)\n"
        "from flows.command import main\n"
        f"code = main(['champion', {str(runs)!r}, '--mlflow'])\n"
        "time.sleep(2)\n"
        "sys.exit(code)\n"
    )
    told = ("DO_NOT_TRACK", "CI", "PYTEST", "MLFLOW")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mlflow.db" in done.stdout
    assert "CALLED" not in done.stderr
    assert (runs / "mlflow.db").is_file()
