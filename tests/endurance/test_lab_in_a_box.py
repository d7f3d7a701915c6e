"""All that a lab runs, on loopback: Prefect's server on PostgreSQL, workers of both pools, a Dask
cluster, a bucket with the stores. An archive goes in, grows over night, and champions come out.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support import object_server, postgresql, prefect_site
from tests.support.connections import is_of_this_machine, read_events, watching
from tests.support.dask_cluster import LIMIT_S, Cluster
from tests.support.postgresql import PostgreSQL
from tests.support.prefect_site import Site, client, free_port, quiet_environment, until
from tests.support.s3_server import BUCKET, S3Server
from voco_data.phantom.cohort import CohortPaths, CohortSpec, write_cohort

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect"), pytest.mark.timeout(1800)]

PREFIX = "lab"
ROOT = f"s3://{BUCKET}/{PREFIX}"
RECIPES = {
    "pretrain_recipe": "tiny",
    "finetune_recipe": "tiny",
    "pretrain_changes": ("fit.total_steps=4", "fit.warmup_steps=1", "fit.log_every=2"),
    "finetune_changes": ("epochs=2", "batch_size=4", "view.size_px=32", "log_every=1"),
}
PROFILES = ("pretrain", "finetune")
FLOWS = ("preprocess", "retrain", "pretrain", "finetune", "evaluate")
TRAINING_S = 900.0
"""Longest wait for a retraining: it imports torch in three stages beside all these servers."""


@dataclass(frozen=True)
class Lab:
    """The services of a lab, and its archive."""

    site: Site
    server: S3Server
    database: PostgreSQL
    dask: Cluster
    cohort: CohortPaths
    """All patients; those who have come are in the archive."""
    connections: Path

    @property
    def archive(self) -> Path:
        return self.site.folder / "archive"

    @property
    def runs(self) -> Path:
        return self.site.folder / "runs"

    def receive(self, count: int) -> None:
        """The next patients come into the archive, with their labels."""
        scans = self.archive / "train_images"
        scans.mkdir(parents=True, exist_ok=True)
        for patient in sorted((self.cohort.ratic / "train_images").iterdir())[:count]:
            shutil.move(patient, scans / patient.name)
        labels = pd.read_csv(self.cohort.labels, dtype={"patient_id": str})
        come = labels["patient_id"].isin([path.name for path in scans.iterdir()])
        labels[come].to_csv(self.archive / "train.csv", index=False)

    @property
    def series(self) -> int:
        """Series in the archive: folders with slices."""
        return len(list((self.archive / "train_images").glob("*/*")))

    def retrain(self, **parameters: Any) -> dict[str, Any]:
        options = RECIPES | {"layout": "dicom", "dask": self.dask.address, "margin": 9.0}
        run = self.site.complete("retrain", TRAINING_S, **options | parameters)
        return self.site.summary(run)

    def champion(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.runs / "champion.json").read_text())
        return found

    def records(self, profile: str) -> int:
        """Series that a store in the bucket has, by the names of its objects."""
        keys = self.server.objects(PREFIX)
        return sum(key.startswith(f"{profile}-") and "/volumes/records/" in key for key in keys)


@pytest.fixture
def lab(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    connections = tmp_path / "connections.txt"
    object_server.use(monkeypatch, s3_server.environment)
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):  # chunks, and the key of the pseudonyms
        monkeypatch.setenv(variable, str(tmp_path / variable))
    env = quiet_environment(tmp_path / "home", f"http://127.0.0.1:{free_port()}/api")
    env |= watching(connections)
    spec = CohortSpec(
        patients=14, unlabelled=0, matrix=64, slices=24, injury_prevalence=0.35, seed=0
    )
    cohort = write_cohort(spec, tmp_path / "cohort")
    prefect_site.make_site(tmp_path / "site")
    shutil.rmtree(tmp_path / "site" / "archive")
    with ExitStack() as services:
        database = services.enter_context(postgresql.running())
        env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database.url
        site = Site(tmp_path / "site", env, services.enter_context(client(env)))
        services.enter_context(prefect_site.running(site))
        dask = Cluster(tmp_path / "dask", env=watching(connections))
        services.callback(dask.close)
        made = Lab(site, s3_server, database, dask, cohort, connections)
        made.receive(12)
        site.voco("server", "setup", "--root", ROOT)
        for pool in ("cpu", "gpu"):
            services.enter_context(site.worker(pool, tmp_path / f"{pool}.log"))
        for pool in ("cpu", "gpu"):
            until(lambda pool=pool: site.workers(pool), f"the worker of the pool {pool}")
        yield made


def modules_of_workers(dask: Cluster) -> list[bool]:
    """Of each Dask worker, whether it has loaded the code that handles one series."""
    from dask.distributed import Client

    with Client(dask.address, timeout=LIMIT_S, set_as_default=False) as asked:
        found = asked.run(lambda: "voco_data.preprocessing.steps" in __import__("sys").modules)
        return list(found.values())


def counts(summary: dict[str, Any]) -> tuple[int, int, int]:
    return tuple(summary[name] for name in ("stored", "cached", "refused"))


def test_a_lab_in_a_box(lab: Lab) -> None:
    site = lab.site

    # The first night: the archive goes into the bucket, by way of the Dask workers.
    night = site.complete("preprocess", dask=lab.dask.address, layout="dicom")
    first_series = lab.series
    assert counts(site.summary(night)) == (first_series, 0, 0)
    assert [lab.records(name) for name in PROFILES] == [first_series] * 2
    assert modules_of_workers(lab.dask) == [True, True]
    assert not list(site.folder.glob("stores*"))
    patients = {path.name for path in (lab.archive / "train_images").iterdir()}
    assert not patients & {
        word for key in lab.server.objects(PREFIX) for word in re.split(r"\W", key)
    }

    # The first champion.
    first = lab.retrain()
    assert (first["promoted"], first["pretrained"], first["patients"]) == (True, True, 12)
    assert lab.champion()["champion"] == first["champion"]

    # New scans come. The second night reads those alone.
    lab.receive(2)
    assert lab.series > first_series
    night = site.complete("preprocess", dask=lab.dask.address, layout="dicom")
    assert counts(site.summary(night)) == (lab.series - first_series, first_series, 0)
    assert [lab.records(name) for name in PROFILES] == [lab.series] * 2

    # A retraining that is compared with the champion, and takes its backbone.
    second = lab.retrain(new_data_share=0.9)
    assert (second["promoted"], second["pretrained"], second["patients"]) == (True, False, 14)
    assert f"champion {first['champion']}" in second["reason"]
    assert lab.champion()["champion"] == second["champion"] != first["champion"]
    assert (lab.runs / second["champion"] / "comparison" / "comparison.html").is_file()

    # Back to the first one.
    told = site.voco("champion", "runs", "--rollback", "--reason", "too many alarms")
    assert told["champion"] == lab.champion()["champion"] == first["champion"]
    assert (lab.runs / first["champion"] / "finetune" / "predictions.parquet").is_file()

    for name in PROFILES:
        tops = {key.split("/")[0] for key in lab.server.objects(PREFIX)}
        (store,) = (top for top in tops if top.startswith(name) and top.endswith(".zarr"))
        assert site.voco("store", "verify", f"{ROOT}/{store}")["series"] == lab.series
    names = "select distinct f.name, r.state_name from flow_run r join flow f on f.id = r.flow_id"
    ended = lab.database.ask(names)
    assert {f"{flow}|Completed" for flow in FLOWS} <= set(ended)
    assert [line for line in ended if not line.endswith("|Completed")] == []
    assert not (Path(site.env["PREFECT_HOME"]) / "prefect.db").exists()
    events = read_events(lab.connections)
    assert any(event == "socket.connect" for event, _ in events)
    assert {event for event in events if not is_of_this_machine(event[1])} == set()
