"""A root in an Azure container, against Azurite: whole runs, access, and what errors say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support.azure_server import CONTAINER, KEY, SECRET, AzureServer
from tests.support.ct_files import body, write_slices
from tests.support.project import PROJECT
from tests.support.s3_server import use
from voco_data.erasure.patient import forget_patient
from voco_data.errors import InputError, StoreUnreachable
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.verification import verify_store
from voco_data.storage.object_store import ObjectStorage
from voco_data.storage.urls import open_storage
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
SERIES = 3
URL = f"az://{CONTAINER}/p"


@dataclass(frozen=True)
class Bench:
    """An archive, a folder and a prefix of a container to fill from it."""

    server: AzureServer
    tmp: Path
    prefix: str

    @property
    def url(self) -> str:
        return f"{self.server.root}/{self.prefix}"

    def add(self, number: int) -> None:
        tags = {"PatientID": f"p{number}"}
        write_slices(self.tmp / f"archive/s{number}", body(seed=number), tags=tags)

    def run(self, root: str | Path) -> PreprocessSummary:
        return preprocess(
            self.tmp / "archive", root, spec_file=self.tmp / "spec.json", workers=1, keep_ids=True
        )

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        """The command, in a process of its own."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "flows.command", "preprocess", self.tmp / "archive"),
                *("--root", self.url, "--spec-file", self.tmp / "spec.json", "--keep-ids"),
                *("--workers", "1", "--json", *options),
            ],
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def volumes(self) -> dict[str, bytes]:
        return volumes(self.server.objects(f"{self.prefix}/"))

    def records(self) -> int:
        lines = self.server.log.read_text().splitlines()
        return sum(
            "PUT" in line and f"{self.prefix}/" in line and "/records/" in line for line in lines
        )


def volumes(objects: dict[str, bytes]) -> dict[str, bytes]:
    """Chunks and records."""
    return {key: data for key, data in objects.items() if "/c/" in key or "/records/" in key}


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def bench(
    azure_server: AzureServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    own = {
        "VOCO_CACHE": str(tmp_path / "cache"),
        "VOCO_PRIVATE": str(tmp_path / "private"),
        "PYTHONPATH": str(PROJECT),
    }
    use(monkeypatch, azure_server.environment | own)
    bench = Bench(azure_server, tmp_path, f"{request.node.name}/root")
    for number in range(SERIES):
        bench.add(number)
    (tmp_path / "spec.json").write_text(SMALL.canonical_json())
    return bench


def test_a_container_ends_up_with_what_a_folder_does(bench: Bench) -> None:
    local, remote = bench.run(bench.tmp / "root"), bench.run(bench.url)
    assert (remote.stored, remote.cached, remote.refused) == (SERIES, 0, 0)
    assert bench.volumes() == volumes(files(bench.tmp / "root"))
    assert bench.run(bench.url).cached == SERIES
    bench.add(SERIES)
    assert bench.run(bench.url).stored == 1
    assert verify_store(remote.stores["small"]).problems == ()
    here, there = Store.open(local.stores["small"]), Store.open(remote.stores["small"])
    assert len(there) == SERIES + 1
    assert all(np.array_equal(here.read(row), there.read(row)) for row in here.rows)


def test_patients_and_garbage_are_removed(bench: Bench) -> None:
    path = bench.run(bench.url).stores["small"]
    root = open_storage(bench.url)
    root.write(f"previews/00/{0:032x}.jpg", b"stray")
    collect_garbage(bench.url, yes=True)
    assert root.size(f"previews/00/{0:032x}.jpg") is None
    forget_patient(bench.url, "p1", yes=True)
    assert sorted(Store.open(path).catalogue["patient_id"]) == ["p0", "p2"]
    assert verify_store(path).problems == ()


def test_a_killed_run_is_taken_over(bench: Bench) -> None:
    for number in range(SERIES, 24):
        bench.add(number)
    killed = bench.start(VOCO_LEASE_SECONDS="10")
    deadline = time.monotonic() + 120
    while bench.records() < 3:
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    refused = bench.start()
    _, said = refused.communicate(timeout=120)
    assert refused.returncode == 1
    assert f"process {killed.pid}" in said.splitlines()[-1]
    again = bench.start("--wait", "60")
    out, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    summary = json.loads(out.splitlines()[-1])
    assert summary["stored"] + summary["cached"] == 24
    assert summary["cached"] >= 1  # nothing finished is lost
    bench.run(bench.tmp / "root")
    assert bench.volumes() == volumes(files(bench.tmp / "root"))


def test_a_folder_that_another_run_removes_too_is_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ObjectStorage.from_url(bench.url)
    for number in range(300):  # more than one request takes
        root.write(f"x/{number}", b"1")
    listed = list(root._list("x"))
    for number in (0, 7, 299):
        root.remove(f"x/{number}")
    answers = iter([iter(listed)])
    original = ObjectStorage._list
    monkeypatch.setattr(ObjectStorage, "_list", lambda s, f: next(answers, None) or original(s, f))
    root.remove_folder("x")
    assert bench.server.objects(f"{bench.prefix}/x/") == {}


def test_no_key_is_shown(bench: Bench) -> None:
    root = ObjectStorage.from_url(bench.url)
    for text in (repr(root), str(root), repr(root.access)):
        assert SECRET not in text
        assert KEY not in text


def test_a_missing_account_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(InputError, match="needs AZURE_STORAGE_ACCOUNT_NAME: set it"):
        open_storage(URL)


@pytest.mark.parametrize(
    ("url", "environment", "error", "said"),
    [
        ("az://no-such-container/p", {}, InputError, "no such container"),
        (URL, {"AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:9/a"}, StoreUnreachable, "answer"),
        (URL, {"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}, InputError, "refuses access"),
        (URL, {"AZURE_STORAGE_ACCOUNT_KEY": "no base64"}, InputError, "AZURE_STORAGE_ACCOUNT_KEY"),
        ("az:///p", {}, InputError, "expected az://CONTAINER/PREFIX"),
        (f"az://user:secret@{CONTAINER}/p", {}, InputError, "expected az://CONTAINER/PREFIX"),
        (f"{URL}/../b", {}, InputError, "expected az://CONTAINER/PREFIX"),
    ],
)
def test_what_cannot_be_reached_is_one_line(
    azure_server: AzureServer,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    environment: dict[str, str],
    error: type[Exception],
    said: str,
) -> None:
    use(monkeypatch, azure_server.environment | environment)
    for ask in (
        lambda storage: storage.read("k"),
        lambda storage: storage.write("k", b""),
        lambda storage: storage.remove("k"),
        lambda storage: list(storage.list_objects()),
        lambda storage: list(storage.list_folders()),
    ):
        with pytest.raises(error, match=said) as caught:
            ask(open_storage(url))
        assert "\n" not in str(caught.value)
        assert SECRET not in str(caught.value)
        assert KEY not in str(caught.value)


def test_https_is_not_given_up_for_http(
    azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = azure_server.endpoint.replace("http://", "https://")
    use(monkeypatch, azure_server.environment | {"AZURE_STORAGE_ENDPOINT": secure})
    before = len(azure_server.requests())
    with pytest.raises(StoreUnreachable):
        open_storage(URL).read("k")
    assert len(azure_server.requests()) == before
