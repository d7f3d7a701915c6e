"""`voco store` on a bucket does what it does on a folder: also killed, and after its lease."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow.parquet as pq
import pytest

from flows.command import main
from tests.support.object_server import use
from tests.support.project import PROJECT
from tests.support.s3_server import BUCKET, S3Server
from tests.support.small_stores import make_record, make_store, random_volumes
from tests.support.zygote import Process, Zygote
from tests.voco_data.erasure.test_patient import (
    OTHER,
    PATIENT,
    SMALL,
    add_patients,
    fill,
    traces_of,
)
from tests.voco_data.maintenance.test_garbage import GRID, old_store
from voco_data.deidentification import pseudonyms
from voco_data.erasure.patient import forget_patient
from voco_data.errors import InputError, StoreBusy
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.verification import verify_store
from voco_data.storage.lease import ObjectLease
from voco_data.storage.local import LocalStorage
from voco_data.storage.urls import open_storage
from voco_data.store.keys import chunk_key
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import commit_volume, open_for_writing

pytestmark = pytest.mark.xdist_group("zygote")  # with the other runs of a zygote

STRAY = f"previews/00/{0:032x}.jpg"
STRAYS = range(100, 400)
STEP = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of this machine, with patients under pseudonyms and with garbage of every kind."""
    folder = tmp_path_factory.mktemp("made")
    add_patients(folder / "archive")
    for _ in range(2):
        fill(folder / "archive", folder / "root")
    root = LocalStorage(folder / "root")
    old_store(root.path)
    (root / SMALL.name).write(chunk_key(77), b"stray")
    root.write(STRAY, b"jpg")
    half = StoreSpec("half", GRID)
    with open_for_writing(root, half) as writer:  # killed: a volume, and a chunk without its record
        writer.assign_rows(["a", "b"])
        volume = random_volumes(1, GRID)[0]
        commit_volume(writer.storage, make_record(1, volume, half, "b"), volume)
        writer.storage.write(chunk_key(0), volume.data)
    return root.path


@dataclass(frozen=True)
class Twins:
    """The same root as a folder and as a prefix of a bucket."""

    server: S3Server
    made: Path
    tmp: Path
    prefix: str

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    @property
    def folder(self) -> Path:
        return self.tmp / "root"

    def reset(self) -> None:
        """Both as they were made; the private folder is on this machine for both."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.made, self.folder)
        root = open_storage(self.url)
        root.remove_folder("")
        for key, data in files(self.folder).items():
            root.write(key, data)
        private = pseudonyms.private_folder(root)
        shutil.rmtree(private, ignore_errors=True)
        shutil.copytree(self.made / "private", private)

    def there(self) -> dict[str, object]:
        return {
            key: meaning(key, data)
            for key, data in self.server.objects(f"{self.prefix}/").items()
            if not key.endswith(".lock")
        }

    def here(self) -> dict[str, object]:
        return {key: meaning(key, data) for key, data in files(self.folder).items()}


def files(root: Path) -> dict[str, bytes]:
    """What a root holds beside locks and names."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
        and path.suffix != ".lock"
        and path.relative_to(root).parts[0] != "private"
    }


def meaning(key: str, data: bytes) -> object:
    """Tables by their lines; what is noted of a file's times, and pages with a date, not at all."""
    if key.endswith(("seals.parquet", ".html")):
        return None
    if key.endswith(".parquet"):
        return sorted(map(repr, pq.ParquetFile(io.BytesIO(data)).read().to_pylist()))
    return data


@pytest.fixture
def twins(
    s3_server: S3Server,
    made: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Twins:
    own = {
        "VOCO_CACHE": str(tmp_path / "cache"),
        "VOCO_PRIVATE": str(tmp_path / "names"),
        "PYTHONPATH": str(PROJECT),
    }
    use(monkeypatch, s3_server.environment | own)
    found = Twins(s3_server, made, tmp_path, f"{request.node.name}/root")
    found.reset()
    return found


def told(capsys: pytest.CaptureFixture[str], root: str | Path, *words: str) -> Any:
    """What `voco store` prints as JSON, with the root's name taken out."""
    assert main(["store", *words, "--json"]) == 0
    text = capsys.readouterr().out.splitlines()[-1]
    return json.loads(text.replace(str(root), "ROOT"))


def of_both(capsys: pytest.CaptureFixture[str], twins: Twins, *words: str) -> Any:
    """The answer of both, which is one. `ROOT` in the words is the root."""
    here, there = (
        told(capsys, root, *(word.replace("ROOT", str(root)) for word in words))
        for root in (twins.folder, twins.url)
    )
    assert here == there
    return here


def test_looking_says_the_same(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    before = twins.there()
    assert len(of_both(capsys, twins, "ls", "ROOT")["stores"]) == 4
    for store in (f"ROOT/{SMALL.name}", f"ROOT/{OTHER.name}"):
        here, there = (
            told(capsys, root, "info", store.replace("ROOT", str(root)))
            for root in (twins.folder, twins.url)
        )
        for told_of in (here, there):  # of two copies, made at two times
            dates = [told_of.pop(name) for name in ("created", "last_written")]
            assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", date) for date in dates)
        assert here == there
        words = ["store", "verify", store.replace("ROOT", twins.url), "--json"]
        assert main(words) == main([word.replace(twins.url, str(twins.folder)) for word in words])
        theirs, ours = (json.loads(line) for line in capsys.readouterr().out.splitlines()[-2:])
        assert theirs["problems"] == [
            problem.replace(str(twins.folder), twins.url) for problem in ours["problems"]
        ]
        assert len(ours["problems"]) == (store == f"ROOT/{SMALL.name}")  # the stray chunk
        images = []
        for name, root in (("here", twins.folder), ("there", twins.url)):
            out = twins.tmp / f"{Path(store).stem}-{name}.nii.gz"
            path = store.replace("ROOT", str(root))
            row = str(Store.open(path).rows[-1])
            told(capsys, root, "export", path, row, "--out", str(out))
            images.append(gzip.decompress(out.read_bytes()))
        assert images[0] == images[1]
    assert twins.there() == before


def test_garbage_is_the_same_and_the_rest_too(
    twins: Twins, capsys: pytest.CaptureFixture[str]
) -> None:
    before = twins.there()
    dry = of_both(capsys, twins, "gc", "ROOT", "--keep-runs", "1")
    assert sorted(item["what"] for item in dry["garbage"]) == [
        *("leftovers", "leftovers", "previews", "run", "store")
    ]
    assert twins.there() == before
    done = of_both(capsys, twins, "gc", "ROOT", "--keep-runs", "1", "--yes")
    assert done == dry | {"removed": True}
    after = twins.there()
    assert after == twins.here()
    assert len(before) - len(after) == sum(item["objects"] for item in dry["garbage"])
    assert of_both(capsys, twins, "gc", "ROOT", "--yes")["garbage"] == []


def test_a_patient_is_forgotten_as_well(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    words, before = traces_of(twins.folder), twins.there()
    dry = of_both(capsys, twins, "forget", "ROOT", PATIENT)
    assert (dry["series"], len(dry["stores"]), len(dry["ledgers"])) == (4, 2, 2)
    assert twins.there() == before
    assert of_both(capsys, twins, "forget", "ROOT", PATIENT, "--yes") == dry | {"removed": True}
    assert twins.there() == twins.here()
    private = pseudonyms.private_folder(open_storage(twins.url))
    assert files(private).keys() == files(twins.folder / "private").keys()
    for data in (*twins.server.objects(f"{twins.prefix}/").values(), *files(private).values()):
        tables = meaning("x.parquet", data) if data[:4] == b"PAR1" else data.decode("latin-1")
        assert not [word for word in words if word in str(tables)]
    assert main(["store", "forget", twins.url, PATIENT, "--yes"]) == 2  # nobody knows the name
    for spec in (SMALL, OTHER):
        assert verify_store(f"{twins.url}/{spec.name}").problems == ()


class Killed(BaseException):
    """Stands for the end of the process."""


@dataclass
class Trouble:
    """What happens at the `number`-th change of an object, and what changes after it."""

    number: int
    what: str
    done: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    lost: bool = False

    def change(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def changing(client: Any, path: Any, *args: Any, **options: Any) -> Any:
            if ".lock" in str(path):
                return real(client, path, *args, **options)
            self.done.append(str(path))
            if self.lost:
                self.late.append(str(path))
            now = len(self.done) == self.number
            if now and self.what == "killed before":
                del args  # a view of a mapped file, which could not be closed
                raise Killed
            result = real(client, path, *args, **options)
            if now and self.what == "killed after":
                del args
                raise Killed
            self.lost |= now and self.what == "lost"
            return result

        return changing

    def check(self) -> None:
        if self.lost:
            raise StoreBusy("the lease was lost")


@contextmanager
def troubled(
    monkeypatch: pytest.MonkeyPatch, number: int, what: str = "nothing"
) -> Iterator[Trouble]:
    trouble = Trouble(number, what)
    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", trouble.change(obstore.put))
        patch.setattr(obstore, "delete", trouble.change(obstore.delete))
        patch.setattr(ObjectLease, "check", trouble.check)
        yield trouble


def clean(url: str) -> None:
    collect_garbage(url, keep_runs=1, yes=True)


def erase(url: str) -> None:
    forget_patient(url, PATIENT, yes=True)


ACTS = [pytest.param(clean, id="gc"), pytest.param(erase, id="forget")]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("act", ACTS)
def test_what_dies_anywhere_is_finished_by_the_next(
    twins: Twins, monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None]
) -> None:
    with troubled(monkeypatch, 0) as undisturbed:
        act(twins.url)
    expected, total = twins.there(), len(undisturbed.done)
    assert total > 15
    for number in range(1, total + 1, STEP):
        twins.reset()
        what = "killed before" if number % 2 else "killed after"
        with troubled(monkeypatch, number, what), pytest.raises(Killed):
            act(twins.url)
        try:
            act(twins.url)
        except InputError:  # it had died after the very last step
            assert number > total - STEP
        assert twins.there() == expected, f"{what} change {number} of {total}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("act", ACTS)
def test_without_its_leases_nothing_changes_any_more(
    twins: Twins, monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None]
) -> None:
    """Whatever is removed or written next, of a store or of what stores share, is not."""
    number = 2
    while True:
        twins.reset()
        with troubled(monkeypatch, number, "lost") as trouble:
            try:
                act(twins.url)
            except StoreBusy:
                assert trouble.late == []
            else:
                assert len(trouble.done) <= number
                break
        number += 3
    assert number > 15


def strays(twins: Twins) -> StoreSpec:
    """Only a sound store, and hundreds of chunks that no catalogue lists: gc takes a while."""
    root = open_storage(twins.url)
    root.remove_folder("")
    store = make_store(twins.tmp / "sound", random_volumes(3, GRID))
    for key, data in files(store.path).items():
        (root / store.spec.name).write(key, data)
    for row in STRAYS:
        (root / store.spec.name).write(chunk_key(row), b"stray")
    return store.spec


def start_gc(twins: Twins, zygote: Zygote) -> Process:
    words = ["store", "gc", twins.url, "--yes"]
    return Process.start(zygote, words, twins.tmp / "log", VOCO_LEASE_SECONDS="3")


def wait_for_removals(twins: Twins, process: Process) -> None:
    deadline, before = time.monotonic() + 60, twins.server.methods()["POST"]
    while twins.server.methods()["POST"] < before + 5:  # a removal each
        assert process.is_running(), process.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_gc_that_comes_back_from_a_long_sleep_removes_nothing(
    twins: Twins, zygote: Zygote
) -> None:
    spec = strays(twins)
    process = start_gc(twins, zygote)
    wait_for_removals(twins, process)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with open_for_writing(open_storage(twins.url), spec, wait_seconds=60) as writer:
            writer.assign_rows(["x"])
            volume = random_volumes(1, GRID, seed=4)[0]
            row = STRAYS[-1]  # as a run does that has grown to there
            commit_volume(writer.storage, make_record(row, volume, spec, "x"), volume)
            before = twins.there()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    code, said = process.end()
    assert code == 1, said
    # A request that was under way when the process was stopped has timed out when it continues.
    assert re.search("lost to another run|does not answer", said[-1]), said
    after = twins.there()
    assert len(before) > 250
    assert len(before) - len(after) <= 1  # the request that was under way
    assert {key for key in after if before[key] != after[key]} == set()
    assert after[f"{spec.name}/{chunk_key(row)}"] == volume.tobytes()


def test_a_killed_gc_is_finished_by_the_next(twins: Twins, zygote: Zygote) -> None:
    spec = strays(twins)
    process = start_gc(twins, zygote)
    wait_for_removals(twins, process)
    os.kill(process.pid, signal.SIGKILL)
    process.end()
    assert main(["store", "gc", twins.url, "--yes", "--wait", "60"]) == 0
    store = f"{twins.url}/{spec.name}"
    assert verify_store(store).problems == ()
    chunks = {key for key in twins.there() if key.startswith(f"{spec.name}/volumes/c/")}
    assert chunks == {f"{spec.name}/{chunk_key(row)}" for row in range(3)}
    assert np.array_equal(
        [np.frombuffer(open_storage(store).read(chunk_key(row)), np.uint8) for row in range(3)],
        random_volumes(3, GRID).reshape(3, -1),
    )
