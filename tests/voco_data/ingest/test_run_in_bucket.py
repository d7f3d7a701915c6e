"""The same flow to a bucket, against real servers: also killed, stopped, and two at once."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import obstore.store
import pandas as pd
import pytest
import zarr
from zarr.storage import ObjectStore

from flows.artifacts import describe_report
from flows.command import main
from flows.ids import patient_pseudonymiser
from flows.preprocess import preprocess as preprocess_flow
from flows.pretrain import pretrain as pretrain_flow
from tests.support.ct_files import body, write_slices
from tests.support.object_server import SECRET, ObjectServer, use
from tests.support.project import PROJECT
from tests.support.s3_server import BUCKET, REGION, S3Server
from tests.support.small_finetune import RECIPE, small_cohort
from tests.support.small_stores import make_store, random_volumes
from tests.support.zygote import Process, Zygote
from tests.voco_models.stages.test_pretraining import GRID, QUICK, curve
from voco_data.deidentification import pseudonyms
from voco_data.erasure.patient import forget_patient
from voco_data.errors import InputError, StoreBusy, StoreCorrupt
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.verification import verify_store
from voco_data.storage.root import FINGERPRINT
from voco_data.storage.urls import open_storage
from voco_data.store import catalogue
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_models.stages.finetuning import finetune
from voco_models.stages.pretraining import pretrain

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
OTHER = StoreSpec(profile="other", grid=(4, 16, 16))
SERIES = 3


@dataclass(frozen=True)
class Bench:
    """An archive, a folder and a prefix of a bucket to fill from it."""

    server: ObjectServer
    zygote: Zygote
    tmp: Path
    prefix: str

    @property
    def url(self) -> str:
        return f"{self.server.root}/{self.prefix}"

    def add(self, number: int) -> None:
        write_slices(self.tmp / f"archive/s{number}", body(seed=number), tags=tags(number))

    def run(self, root: str | Path, **options: object) -> PreprocessSummary:
        given = {"spec_file": self.tmp / "specs.json", "workers": 1, "keep_ids": True, **options}
        return preprocess(self.tmp / "archive", root, **given)  # type: ignore[arg-type]

    def start(self, *options: str, **environment: str) -> Process:
        """The command, in a process of its own."""
        words = ["preprocess", str(self.tmp / "archive"), "--root", self.url]
        words += ["--spec-file", str(self.tmp / "specs.json"), "--keep-ids", "--workers", "1"]
        log = self.tmp / f"log-{len(list(self.tmp.glob('log-*')))}"
        log.touch()
        return Process.start(self.zygote, [*words, "--json", *options], log, **environment)

    def objects(self) -> dict[str, bytes]:
        return self.server.objects(f"{self.prefix}/")

    def lists(self, spec: StoreSpec) -> pd.DataFrame:
        return catalogue.read(open_storage(self.url) / spec.name)


def tags(number: int) -> dict[str, object]:
    return {"PatientID": f"p{number}"}


@pytest.fixture
def bench(
    request: pytest.FixtureRequest,
    zygote: Zygote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """On an S3 server, or on the servers that the test is parametrised with."""
    server: ObjectServer = request.getfixturevalue(getattr(request, "param", "s3_server"))
    own = {
        "VOCO_CACHE": str(tmp_path / "cache"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "PYTHONPATH": str(PROJECT),
    }
    use(monkeypatch, server.environment | own)
    monkeypatch.delenv("VOCO_PRIVATE", raising=False)
    name = re.sub(r"\W+", "-", request.node.name)  # brackets have another form in a request
    found = Bench(server, zygote, tmp_path, f"{name}/root")
    for number in range(SERIES):
        found.add(number)
    (tmp_path / "specs.json").write_text(f"[{SMALL.canonical_json()}, {OTHER.canonical_json()}]")
    return found


in_each_bucket = pytest.mark.parametrize(
    "bench", ["s3_server", "azure_server"], indirect=True, ids=["s3", "azure"]
)

azure_is_slow = pytest.mark.parametrize(
    "bench",
    ["s3_server", pytest.param("azure_server", marks=pytest.mark.slow)],
    indirect=True,
    ids=["s3", "azure"],
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


def counts(summary: PreprocessSummary) -> tuple[int, int, int]:
    return (summary.stored, summary.cached, summary.refused)


@in_each_bucket
def test_a_bucket_ends_up_with_what_a_folder_does(bench: Bench) -> None:
    local, remote = bench.run(bench.tmp / "root"), bench.run(bench.url)
    assert counts(local) == counts(remote) == (SERIES, 0, 0)
    here, there = files(bench.tmp / "root"), bench.objects()
    assert volumes(there) == volumes(here)
    assert len(volumes(there)) == 4 * SERIES + 2  # and `valid` of each store
    metadata = {key: data for key, data in here.items() if key.endswith("zarr.json")}
    assert metadata == {key: data for key, data in there.items() if key.endswith("zarr.json")}
    for spec in (SMALL, OTHER):
        table = catalogue.read(open_storage(bench.tmp / "root") / spec.name)
        pd.testing.assert_frame_equal(bench.lists(spec), table)
    run = remote.ledger.rpartition("/")[0]
    assert run.startswith(f"{bench.url}/runs/")
    assert remote.report == f"{run}/report.html"
    page = there[remote.report.removeprefix(f"{bench.url}/")].decode()
    assert page.count("data:image/jpeg") == SERIES
    assert {key.partition("/")[0] for key in there} == {
        *(f".{spec.name}.lock" for spec in (SMALL, OTHER)),
        *(spec.name for spec in (SMALL, OTHER)),
        *("archives.lock", "archives.parquet", "ids.mode", "ids.mode.lock"),
        *("freshness.lock", "freshness.parquet", "previews", "runs"),
    }
    assert counts(bench.run(bench.url)) == (0, SERIES, 0)
    bench.add(SERIES)
    assert counts(bench.run(bench.url)) == (1, SERIES, 0)
    assert verify_store(remote.stores["small"]).problems == ()
    first, second = Store.open(local.stores["small"]), Store.open(remote.stores["small"])
    assert len(second) == SERIES + 1
    assert all(np.array_equal(first.read(row), second.read(row)) for row in first.rows)


def test_a_rerun_reads_no_volume_and_a_new_series_costs_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOCO_LEASE_SECONDS", "600")  # renewals would be counted too
    bench.run(bench.url)
    before, sent = bench.objects(), len(bench.server.requests())
    assert counts(bench.run(bench.url)) == (0, SERIES, 0)
    idle = bench.server.requests()[sent:]
    count = Counter(method for method, _ in idle)
    said = f"{len(idle)}: {count['PUT']} PUT, {count['HEAD']} HEAD, {count['GET']} GET and LIST;"
    assert said in (PROJECT / "docs" / "object-stores.md").read_text()
    assert f"| {len(idle)}, and " in (PROJECT / "docs" / "scale.md").read_text()
    read = [path for method, path in idle if method == "GET" and "list-type" not in path]
    assert not [path for path in read if "/c/" in path and "/valid/" not in path]
    assert not [path for path in read if "/records/" in path or ".jpg" in path]
    sent = len(bench.server.requests())
    for number in range(SERIES, SERIES + 2):
        bench.add(number)
    assert counts(bench.run(bench.url)) == (2, SERIES, 0)
    busy = bench.server.requests()[sent:]
    # Two stores: a chunk and a record each; one preview, which the report reads. Then for each
    # store the lengths of two arrays, `valid`, catalogue and seals, for which the catalogue is
    # read once more and chunks and records are listed. Last, the table of archives under its lease.
    assert Counter(method for method, _ in busy) - Counter(method for method, _ in idle) == {
        "PUT": 2 * 5 + 2 * 5 + 5,
        "GET": 2 * 1 + 2 * 3 + 2,
        "HEAD": 1,
    }
    old, new = volumes(before), volumes(bench.objects())
    assert len(new) == len(old) + 2 * 4
    assert all(new[key] == data for key, data in old.items() if "/valid/" not in key)


@azure_is_slow
def test_patients_and_garbage_are_removed(bench: Bench) -> None:
    path = bench.run(bench.url).stores["small"]
    home = open_storage(bench.url)
    home.write(f"previews/00/{0:032x}.jpg", b"stray")
    collect_garbage(bench.url, yes=True)
    assert home.size(f"previews/00/{0:032x}.jpg") is None
    forget_patient(bench.url, "p1", yes=True)
    assert sorted(Store.open(path).catalogue["patient_id"]) == ["p0", "p2"]
    assert verify_store(path).problems == ()


def test_any_zarr_tool_opens_it(bench: Bench) -> None:
    path = bench.run(bench.url).stores["small"]
    client = obstore.store.S3Store(
        BUCKET,
        prefix=path.removeprefix(f"s3://{BUCKET}/"),
        endpoint=bench.server.endpoint,
        access_key_id="test",
        secret_access_key=SECRET,
        region=REGION,
        client_options={"allow_http": True},
    )
    group = zarr.open_group(ObjectStore(client, read_only=True), mode="r")
    store = Store.open(path)
    rows = store.catalogue["row"].tolist()
    assert len(rows) == SERIES
    assert np.array_equal(group["volumes"][:], np.stack([store.read(row) for row in rows]))
    assert group["valid"][:].all()


def test_damage_is_found_where_it_is_and_not_in_the_cache(bench: Bench) -> None:
    assert isinstance(bench.server, S3Server)
    path = bench.run(bench.url).stores["small"]
    good = Store.open(path)
    volume = good.read(1)
    key = f"{path.removeprefix(f's3://{BUCKET}/')}/volumes/c/1/0/0/0"
    broken = bytearray(volume.tobytes())
    broken[100] ^= 1
    bench.server.client.put_object(Bucket=BUCKET, Key=key, Body=bytes(broken))
    assert np.array_equal(Store.open(path).read(1), volume)  # a copy of this machine
    (problem,) = verify_store(path).problems
    assert good.catalogue["series_uid"][1] in problem
    for copy in (bench.tmp / "cache").rglob("*-*"):
        copy.unlink()
    with pytest.raises(StoreCorrupt, match=good.catalogue["series_uid"][1]):
        Store.open(path).read(1)
    bench.server.client.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(StoreCorrupt, match="missing"):
        Store.open(path).read(1)
    assert len(verify_store(path).problems) == 1


def upload(local: Store, bench: Bench) -> str:
    storage = open_storage(bench.url) / local.storage.name
    for key, data in files(local.path).items():
        storage.write(key, data)
    return str(storage)


def test_a_classifier_learns_the_same_from_a_bucket(bench: Bench) -> None:
    local, labels = small_cohort(bench.tmp / "stores")
    summaries = [
        finetune(store, labels, bench.tmp / out, recipe=RECIPE, device="cpu", max_steps=2)
        for store, out in ((local.path, "first"), (upload(local, bench), "second"))
    ]
    first, second = (history_of(summary.run) for summary in summaries)
    assert first
    assert first == second


def history_of(run: Path) -> dict[str, list[dict[str, float]]]:
    return {
        path.relative_to(run).as_posix(): curve(path.parent) for path in run.rglob("history.csv")
    }


def test_training_from_a_bucket_is_training_from_a_folder(bench: Bench) -> None:
    local = make_store(bench.tmp / "stores", random_volumes(5, GRID))
    url = upload(local, bench)
    first = pretrain([local.path], bench.tmp / "first", recipe=QUICK, device="cpu")
    second = pretrain([url], bench.tmp / "second", recipe=QUICK, device="cpu")
    assert curve(bench.tmp / "first") == curve(bench.tmp / "second")
    assert second.loss == first.loss
    assert second.stores == (url,)
    sent = len(bench.server.requests())
    pretrain([url], bench.tmp / "third", recipe=QUICK, device="cpu")
    assert not [path for _, path in bench.server.requests()[sent:] if "/c/" in path]
    with pytest.raises(InputError, match="given twice"):
        pretrain([url, url], bench.tmp / "fourth", recipe=QUICK, device="cpu")


def wait_for(what: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process.is_running(), process.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_records(bench: Bench, least: int) -> Callable[[], bool]:
    def seen() -> bool:
        put = [path for method, path in bench.server.logged() if method == "PUT"]
        return sum(f"{bench.prefix}/" in path and "/records/" in path for path in put) >= least

    return seen


@azure_is_slow
def test_a_killed_run_is_gone_on_with(bench: Bench) -> None:
    for number in range(SERIES, 12):
        bench.add(number)
    process = bench.start(VOCO_LEASE_SECONDS="6")
    wait_for(has_records(bench, 5), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.end()
    with pytest.raises(StoreBusy, match=f"process {process.pid}"):
        bench.run(bench.url)
    assert all(len(bench.lists(spec)) == 0 for spec in (SMALL, OTHER))  # readers saw nothing yet
    again = bench.run(bench.url, wait=60)
    assert again.stored + again.cached == 12
    assert again.cached >= 2  # nothing finished is lost
    bench.run(bench.tmp / "root")
    assert volumes(bench.objects()) == volumes(files(bench.tmp / "root"))


def test_ctrl_c_lets_the_next_run_in_at_once(bench: Bench) -> None:
    for number in range(SERIES, 12):
        bench.add(number)
    process = bench.start(VOCO_LEASE_SECONDS="600")
    wait_for(has_records(bench, 1), process)
    os.killpg(process.pid, signal.SIGINT)
    code, said = process.end()
    assert code == 130, said
    assert bench.run(bench.url).series == 12


def test_two_runs_at_once_end_well(bench: Bench) -> None:
    both = [bench.start("--wait", "120", VOCO_LEASE_SECONDS="10") for _ in range(2)]
    ended = [process.end() for process in both]
    assert [code for code, _ in ended] == [0, 0], ended
    done = [json.loads(said[-1]) for _, said in ended]
    assert sorted((one["stored"], one["cached"]) for one in done) == [(0, SERIES), (SERIES, 0)]
    bench.run(bench.tmp / "root")
    assert volumes(bench.objects()) == volumes(files(bench.tmp / "root"))


def test_a_run_that_comes_back_from_a_long_sleep_changes_nothing(bench: Bench) -> None:
    for number in range(SERIES, 12):
        bench.add(number)
    process = bench.start(VOCO_LEASE_SECONDS="3")
    wait_for(has_records(bench, 1), process)
    os.kill(process.pid, signal.SIGSTOP)  # its workers finish what they have
    try:
        assert bench.run(bench.url, wait=60).series == 12
        before = bench.objects()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    code, said = process.end()
    assert code == 1, said
    # A request that was under way when the process was stopped has timed out when it continues.
    assert re.search("lost to another run|does not answer", said[-1]), said
    assert "Traceback" not in process.log.read_text()
    after = bench.objects()
    assert {key for key in after if before.get(key) != after[key]} == set()
    assert verify_store(f"{bench.url}/{SMALL.name}").problems == ()


def test_dask_workers_write_there_too(bench: Bench) -> None:
    bench.run(bench.tmp / "root")
    assert counts(bench.run(bench.url, dask="local")) == (SERIES, 0, 0)
    assert volumes(bench.objects()) == volumes(files(bench.tmp / "root"))


def test_the_command_takes_urls(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    path = bench.run(bench.url).stores["small"]
    assert main(["store", "ls", bench.url, "--json"]) == 0
    assert [store["path"] for store in last_json(capsys)["stores"]] == [
        f"{bench.url}/{OTHER.name}",
        path,
    ]
    assert main(["store", "info", path, "--json"]) == 0
    assert last_json(capsys)["series"] == SERIES
    assert main(["store", "verify", path, "--json"]) == 0
    assert last_json(capsys)["problems"] == []


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["store", "info", "s3://no-such-bucket/x.zarr"], 2, "no such bucket"),
        (["store", "info", f"s3://{BUCKET}/nothing-here.zarr"], 2, "expected a store"),
        (["store", "ls", "s3://no-such-bucket/root"], 2, "no such bucket"),
        (["preprocess", "ARCHIVE", "--root", "s3://no-such-bucket/root"], 2, "no such bucket"),
        (["pretrain", "s3://no-such-bucket/x.zarr", "--out", "RUN"], 2, "no such bucket"),
    ],
)
def test_a_wrong_url_is_one_line(
    bench: Bench, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    paths = {"ARCHIVE": bench.tmp / "archive", "RUN": bench.tmp / "run"}
    assert main([str(paths.get(argument, argument)) for argument in arguments]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert said in last
    assert last.startswith("voco ")


def test_flows_take_urls_as_they_are(bench: Bench) -> None:
    given = {"source": "archive", "root": "s3://b/p"}
    assert preprocess_flow.validate_parameters(given)["root"] == "s3://b/p"
    assert preprocess_flow.validate_parameters(given)["source"] == Path("archive")
    given_stores = {"stores": ["s3://b/p/x.zarr", Path("y.zarr")], "out": "run"}
    assert pretrain_flow.validate_parameters(given_stores)["stores"] == given_stores["stores"]


def test_a_report_in_a_bucket_is_linked_by_its_url() -> None:
    assert describe_report("s3://b/runs/report.html") == "Report: s3://b/runs/report.html"


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--root", "s3://b/p"],
        ["preprocess", "s3://b/p", "--root", "stores"],
        ["pretrain", "store.zarr", "--out", "s3://b/p"],
    ],
)
def test_what_must_be_a_path_is_no_url(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "expected a path of this machine, got s3://b/p" in capsys.readouterr().err


def test_names_stay_on_the_machine_that_has_the_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        path = bench.run(bench.url, keep_ids=False).stores["small"]
    folder = pseudonyms.private_folder(open_storage(bench.url))
    assert str(folder) in caplog.text
    assert folder.is_relative_to(bench.tmp / "data")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = sorted(file.name for file in folder.iterdir())
    assert names == [pseudonyms.KEY_FILE, pseudonyms.LOCK_FILE, pseudonyms.MAP_FILE]
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    key = bytes.fromhex((folder / pseudonyms.KEY_FILE).read_text())
    everything = b"".join(bench.objects().values())
    assert key not in everything
    assert key.hex().encode() not in everything
    assert b"Doe" not in everything
    assert patient_pseudonymiser(path)("p1") in set(Store.open(path).catalogue["patient_id"])  # type: ignore[misc]

    monkeypatch.setenv("XDG_DATA_HOME", str(bench.tmp / "other machine"))
    with pytest.raises(InputError, match=r"key that is not in .*other machine.*VOCO_PRIVATE"):
        bench.run(bench.url, keep_ids=False)
    moved = bench.tmp / "moved" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    monkeypatch.setenv("VOCO_PRIVATE", str(moved.parent))
    assert counts(bench.run(bench.url, keep_ids=False)) == (0, SERIES, 0)


def test_a_bucket_has_one_id_mode_and_needs_its_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.run(bench.url, keep_ids=False).stores["small"]
    with pytest.raises(InputError, match="holds pseudonyms; leave --keep-ids out"):
        bench.run(bench.url)
    monkeypatch.setenv("XDG_DATA_HOME", str(bench.tmp / "other machine"))
    with pytest.raises(InputError, match="key that is not in"):
        patient_pseudonymiser(path)
    with pytest.raises(InputError, match="key that is not in"):
        forget_patient(bench.url, "p1")
    before = bench.objects()
    open_storage(bench.url).remove(FINGERPRINT)
    with pytest.raises(InputError, match=r"ids\.key: the key .* is missing"):
        bench.run(bench.url, keep_ids=False)
    assert bench.objects().keys() == before.keys() - {FINGERPRINT}


def test_another_spec_is_another_store_beside_it(bench: Bench) -> None:
    bench.run(bench.url)
    wider = replace(SMALL, window_width_hu=500.0)
    (bench.tmp / "specs.json").write_text(wider.canonical_json())
    assert bench.run(bench.url).stores == {"small": f"{bench.url}/{wider.name}"}
    assert set(open_storage(bench.url).list_folders()) >= {SMALL.name, OTHER.name, wider.name}
