"""What is garbage under a root, and that nothing else goes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.command import main
from tests.support.ct_files import body, write_slices
from tests.support.small_stores import make_record, make_store, random_volumes
from voco_data.errors import InputError, StoreBusy, VocoError
from voco_data.ingest.run import preprocess
from voco_data.maintenance.garbage import GcSummary, collect_garbage
from voco_data.maintenance.pins import pin_store
from voco_data.maintenance.verification import verify_store
from voco_data.storage.local import LocalStorage
from voco_data.store.keys import chunk_key, record_key
from voco_data.store.reader import Store
from voco_data.store.record import write_record
from voco_data.store.spec import ALGORITHM_VERSION, StoreSpec
from voco_data.store.writer import commit_volume, open_for_writing

GRID = (2, 8, 8)
DAY_S = 24 * 3600


def old_store(root: Path, profile: str = "old") -> Path:
    """A store as an older version of voco left it."""
    volumes = random_volumes(2, GRID)
    spec = StoreSpec(profile, GRID, algorithm_version=ALGORITHM_VERSION - 1)
    with open_for_writing(LocalStorage(root), spec) as writer:
        writer.assign_rows(["0", "1"])
        for name, volume in zip("01", volumes, strict=True):
            made = make_record(writer.row_of(name), volume, spec, name)
            commit_volume(writer.storage, made, volume)
            writer.add_record(made)
        writer.compact()
    return root / spec.name


def run_of(folder: Path, store: Path) -> Path:
    folder.mkdir(parents=True)
    digest = store.name.removesuffix(".zarr").rpartition("-")[2]
    (folder / "run.json").write_text(json.dumps({"stores": [{"digest": digest}]}))
    pin_store(Store.open(store), folder, "pretrain")
    return folder


def files(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_size for p in root.rglob("*") if p.is_file()}


def told(summary: GcSummary) -> dict[tuple[str, str], int]:
    return {(item.kind, item.name): item.bytes for item in summary.garbage}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_store(tmp_path / "root", random_volumes(3, GRID), profile="new")
    return tmp_path / "root"


def test_an_old_store_that_nobody_uses_goes_only_with_yes(root: Path) -> None:
    old = old_store(root)
    before = files(root)
    size = sum(n for name, n in before.items() if name.startswith(old.name))
    dry = collect_garbage(root)
    assert (dry.removed, told(dry), dry.bytes) == (False, {("store", old.name): size}, size)
    assert files(root) == before
    done = collect_garbage(root, yes=True)
    assert done.removed
    assert told(done) == told(dry)
    kept = {name: n for name, n in before.items() if not name.startswith(f"{old.name}/")}
    assert files(root) == kept
    assert not old.exists()
    assert collect_garbage(root, yes=True).garbage == ()


def test_a_pinned_store_stays_and_says_who_uses_it(root: Path, tmp_path: Path) -> None:
    old = old_store(root)
    run = run_of(tmp_path / "runs" / "a", old)
    before = files(root)
    summary = collect_garbage(root, yes=True)
    assert summary.garbage == ()
    assert str(run) in summary.kept[0]
    assert files(root) == before
    with pytest.raises(InputError, match="used by"):
        collect_garbage(root, stores=[old.name], yes=True)
    shutil.rmtree(run)
    assert {what for what, _ in told(collect_garbage(root, yes=True))} == {"store", "pins"}
    assert not old.exists()
    assert list((root / "pins").glob("*")) == []


def test_a_named_store_goes_although_it_is_current(root: Path, tmp_path: Path) -> None:
    (name,) = (path.name for path in root.glob("new-*.zarr"))
    collect_garbage(root, stores=[name], yes=True)
    assert not (root / name).exists()
    for odd in ("nothing-000000000000.zarr", "../root", ".", "private"):
        with pytest.raises(InputError, match="folder name of a store"):
            collect_garbage(root, stores=[odd], yes=True)


def test_what_a_newer_version_made_is_left_alone(root: Path) -> None:
    old = old_store(root)
    metadata = json.loads((old / "zarr.json").read_text())
    metadata["attributes"]["voco"]["format"] = 99
    (old / "zarr.json").write_text(json.dumps(metadata))
    newer = replace(StoreSpec("newer", GRID), algorithm_version=ALGORITHM_VERSION + 1)
    with open_for_writing(LocalStorage(root), newer) as writer:
        writer.assign_rows([])
    before = files(root)
    summary = collect_garbage(root, yes=True)
    assert files(root) == before
    assert any("format 99" in line for line in summary.kept)


def test_leftovers_inside_a_store_that_stays(root: Path) -> None:
    (store,) = root.glob("new-*.zarr")
    opened = Store.open(store)
    volume = opened.read(0)
    storage = LocalStorage(store)
    storage.write(chunk_key(7), volume.data)  # killed before its record
    write_record(storage, make_record(8, volume, opened.spec, "lost"))  # its chunk was removed
    torn = store / "volumes" / "c" / ".0.123.0123abcd.tmp"
    torn.write_bytes(b"half")
    fresh = store / "volumes" / "c" / ".0.124.0123abcd.tmp"
    fresh.write_bytes(b"still being written")
    os.utime(torn, (time.time() - 2 * DAY_S,) * 2)
    before = files(store)
    summary = collect_garbage(root, yes=True)
    assert told(summary) == {
        ("leftovers", store.name): before[chunk_key(7)] + before[record_key(8)],
        ("temporary", store.name): 4,
    }
    gone = {chunk_key(7), record_key(8), str(torn.relative_to(store))}
    assert files(store) == {name: n for name, n in before.items() if name not in gone}


def test_what_an_interrupted_run_committed_is_no_leftover(root: Path) -> None:
    """The next run takes it up; gc must not take it away."""
    volumes = random_volumes(2, GRID, seed=5)
    spec = StoreSpec("half", GRID)
    with open_for_writing(LocalStorage(root), spec) as writer:
        writer.assign_rows(["a", "b"])
        commit_volume(writer.storage, make_record(1, volumes[1], spec, "b"), volumes[1])
        writer.storage.write(chunk_key(0), np.ascontiguousarray(volumes[0]).data)
    summary = collect_garbage(root, yes=True)
    assert told(summary) == {("leftovers", spec.name): 2 * 8 * 8}
    with open_for_writing(LocalStorage(root), spec) as writer:
        assert list(writer.index.rows()) == [1]
    assert np.array_equal(Store.open(root / spec.name).read(1), volumes[1])


def lose(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [lose, damage])
@pytest.mark.parametrize("tables", [["rows"], ["catalogue"], ["rows", "catalogue"]])
def test_a_store_whose_tables_are_lost_keeps_its_volumes(
    root: Path, tables: list[str], harm: Callable[[Path], None]
) -> None:
    """Catalogue and rows are made from the records: while those read, nothing is garbage."""
    (store,) = root.glob("new-*.zarr")
    spec = Store.open(store).spec
    with open_for_writing(
        LocalStorage(root), spec
    ) as writer:  # a run that was killed after its first volume
        writer.assign_rows(["x", "y"])
        volume = random_volumes(1, GRID, seed=9)[0]
        for name in "xy":
            writer.storage.write(chunk_key(writer.row_of(name)), volume.data)
        write_record(writer.storage, make_record(writer.row_of("x"), volume, spec, "x"))
    for table in tables:
        harm(store / "volumes" / f"{table}.parquet")
    before = files(store)
    if harm is damage and "catalogue" in tables:
        with pytest.raises(VocoError, match="nothing was removed"):
            collect_garbage(root, yes=True)
        assert files(store) == before
        return
    summary = collect_garbage(root, yes=True)
    assert told(summary) == {("leftovers", store.name): 2 * 8 * 8}  # the chunk of y
    assert files(store).keys() == before.keys() - {chunk_key(4)}
    with open_for_writing(LocalStorage(root), spec) as writer:
        assert list(writer.index.rows()) == [0, 1, 2, 3]
    assert verify_store(store).problems == ()


def test_a_record_under_anothers_row_is_a_leftover(root: Path) -> None:
    (store,) = root.glob("new-*.zarr")
    (store / "volumes" / "rows.parquet").unlink()
    storage = LocalStorage(store)
    storage.write(record_key(9), storage.read(record_key(1)))
    assert told(collect_garbage(root, yes=True)).keys() == {("leftovers", store.name)}
    assert storage.size(record_key(9)) is None


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A root with a store, three runs and two previews."""
    for name, seed in (("a", 1), ("b", 2)):
        write_slices(tmp_path / "archive" / name, body(seed=seed), tags={"PatientID": name})
    specs = tmp_path / "specs.json"
    specs.write_text(StoreSpec("small", GRID).canonical_json())
    for _ in range(3):
        preprocess(tmp_path / "archive", tmp_path / "root", spec_file=specs, workers=1)
        time.sleep(1)  # run ids count seconds
    return tmp_path / "root"


def test_runs_and_previews(filled: Path) -> None:
    (filled / "runs" / "my-training").mkdir()
    (filled / "runs" / "my-training" / "run.json").write_text("{}")
    stray = filled / "previews" / "00" / f"{0:032x}.jpg"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"jpg")
    before = files(filled)
    assert told(collect_garbage(filled)) == {("previews", "previews"): 3}
    runs = sorted(path.name for path in (filled / "runs").glob("*-preprocess-*"))
    summary = collect_garbage(filled, keep_runs=1, yes=True)
    assert set(told(summary)) == {
        ("previews", "previews"),
        *(("run", f"runs/{name}") for name in runs[:2]),
    }
    now = files(filled)
    assert sorted(path.name for path in (filled / "runs").iterdir()) == [runs[2], "my-training"]
    private = {name for name in before if name.startswith("private")}
    assert private
    assert private <= set(now)
    assert sum(name.startswith("previews") for name in now) == 2


def test_previews_that_only_a_ledger_shows_stay_with_it(filled: Path) -> None:
    (name,) = (path.name for path in filled.glob("*.zarr"))
    collect_garbage(filled, stores=[name], yes=True)
    assert len(list((filled / "previews").rglob("*.jpg"))) == 2
    collect_garbage(filled, keep_runs=0, yes=True)
    assert list((filled / "previews").rglob("*.jpg")) == []
    assert (filled / "private" / "ids.key").exists()


def test_a_busy_store_is_one_line_and_exit_code_1(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = old_store(root)
    before = files(root)
    with LocalStorage(root).lock(f".{old.name}.lock", wait_seconds=0):
        assert main(["store", "gc", str(root), "--yes"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        assert main(["store", "gc", str(root), "--json"]) == 0  # looking needs no lock
    assert json.loads(capsys.readouterr().out)["garbage"][0]["what"] == "store"
    assert files(root).keys() == before.keys()


def test_no_root_is_bad_input(tmp_path: Path) -> None:
    for action in ("gc", "ls"):
        assert main(["store", action, str(tmp_path / "nowhere")]) == 2


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_removal_that_dies_anywhere_is_finished_or_undone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-removed store is what its next writer can go on with, and the next gc removes it."""
    store = make_store(root, random_volumes(3, GRID), profile="named")
    spec, name = store.spec, store.path.name
    remove: Any = LocalStorage.remove
    number = len(files(store.path))
    for survivors in range(number):
        copy = Path(shutil.copytree(root, tmp_path / str(survivors)))
        left = [survivors]

        def dying(self: LocalStorage, key: str, left: list[int] = left) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            remove(self, key)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStorage, "remove", dying)
            with pytest.raises(Killed):
                collect_garbage(copy, stores=[name], yes=True)
        again = Path(shutil.copytree(copy, tmp_path / f"again-{survivors}"))
        with open_for_writing(LocalStorage(copy), spec) as writer:  # someone wants it back
            kept = sorted(writer.index.rows())
        reopened = Store.open(copy / name)
        for row in kept:
            assert np.array_equal(reopened.read(row), store.read(row))
        collect_garbage(again, stores=[name] if (again / name).exists() else [], yes=True)
        assert not (again / name).exists()


def test_another_process_may_wait(root: Path) -> None:
    (name,) = (path.name for path in root.glob("new-*.zarr"))
    with LocalStorage(root).lock(f".{name}.lock", wait_seconds=0), pytest.raises(StoreBusy):
        collect_garbage(root, yes=True, wait=0.3)
