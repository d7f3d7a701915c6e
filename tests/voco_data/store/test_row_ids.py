"""rows.parquet is lost: what is committed stays, and what was replaced does not return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.small_stores import make_record, make_store, random_volumes
from voco_data.maintenance.verification import verify_store
from voco_data.storage.local import LocalStorage
from voco_data.store.keys import CATALOGUE, ROW_IDS, chunk_key, record_key
from voco_data.store.reader import Store
from voco_data.store.row_ids import RowIds
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import commit_volume, open_for_writing

GRID = (2, 8, 8)
SPEC = StoreSpec("small", GRID)
VOLUMES = random_volumes(6, GRID, seed=3)


def unlink(path: Path) -> None:
    path.unlink()


def garble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.fixture
def home(tmp_path: Path) -> LocalStorage:
    """A store of three volumes."""
    make_store(tmp_path, VOLUMES[:3])
    return LocalStorage(tmp_path)


def kept(home: LocalStorage) -> dict[int, str]:
    store = Store.open(home / SPEC.name)
    assert verify_store(store.storage).problems == ()
    return dict(zip(store.rows.tolist(), store.catalogue["series_uid"], strict=True))


def test_a_new_store_has_lost_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path) / SPEC.name
    assert not RowIds(storage).is_lost
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        writer.assign_rows(["a"])  # and is killed before the first volume
    (tmp_path / SPEC.name / ROW_IDS).unlink()
    assert not RowIds(storage).is_lost


@pytest.mark.parametrize("harm", [unlink, garble])
@pytest.mark.parametrize("also", ["nothing", "mark", "metadata"])
def test_what_a_killed_run_committed_keeps_its_row(
    home: LocalStorage, harm: Callable[[Path], None], also: str
) -> None:
    with open_for_writing(home, SPEC) as writer:
        writer.assign_rows(["x", "y"])
        commit_volume(writer.storage, make_record(4, VOLUMES[4], SPEC, "y"), VOLUMES[4])
        (home.path / f".{SPEC.name}.lock").unlink()  # its process ended here
        (home.path / f".{SPEC.name}.lock").write_text("1\n")
    store = home.path / SPEC.name
    harm(store / ROW_IDS)
    if also == "mark":  # a copy of the root without its hidden files
        (home.path / f".{SPEC.name}.lock").unlink()
    if also == "metadata":  # nothing says any more how many rows there were
        (store / "volumes/zarr.json").unlink()
    before = (store / chunk_key(4)).stat()
    with open_for_writing(home, SPEC) as writer:
        writer.assign_rows(["z"])
        assert writer.row_of("z") == 5
        commit_volume(writer.storage, record := make_record(5, VOLUMES[5], SPEC, "z"), VOLUMES[5])
        writer.add_record(record)
        writer.compact()
    names = ["000", "001", "002", "y", "z"]
    assert kept(home) == dict(zip([0, 1, 2, 4, 5], map("series-{}".format, names), strict=True))
    after = (store / chunk_key(4)).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("harm", [unlink, garble])
@pytest.mark.parametrize("tables", [[ROW_IDS], [ROW_IDS, CATALOGUE]])
def test_what_was_replaced_does_not_return(
    home: LocalStorage, harm: Callable[[Path], None], tables: list[str]
) -> None:
    storage = home / SPEC.name
    old = {key: storage.read(key) for key in (chunk_key(1), record_key(1))}
    changed = replace(make_record(3, VOLUMES[5], SPEC, "001"), input_digest="f" * 32)
    with open_for_writing(home, SPEC) as writer:
        writer.assign_rows([changed.key])
        assert writer.row_of(changed.key) == 3
        commit_volume(writer.storage, changed, VOLUMES[5])
        writer.add_record(changed)
        writer.compact()
    for key, data in old.items():  # it was killed before it removed them
        storage.write(key, data)
    for table in tables:
        harm(storage.path / table)
    with open_for_writing(home, SPEC) as writer:
        writer.assign_rows([])
        writer.compact()
    assert kept(home) == {0: "series-000", 2: "series-002", 3: "series-001"}
    assert np.array_equal(Store.open(storage).read(3), VOLUMES[5])
    assert all(storage.size(key) is None for key in old)
