"""Chunks through the cache of this machine: fetched once, never stale, and checked."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from tests.support.object_server import use
from tests.support.s3_server import BUCKET, S3Server
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import StoreCorrupt
from voco_data.storage.object_store import ObjectStorage
from voco_data.store.catalogue import RecordTable
from voco_data.store.chunks import reader
from voco_data.store.chunks.cache import ChunkCache
from voco_data.store.keys import chunk_key
from voco_data.store.reader import Store
from voco_data.store.record import read_record

GRID = (4, 16, 16)
CHUNK = 4 * 16 * 16


@pytest.fixture
def remote(
    s3_server: S3Server,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> ObjectStorage:
    """A store of four volumes in a bucket."""
    use(monkeypatch, s3_server.environment | {"VOCO_CACHE": str(tmp_path / "cache")})
    local = make_store(tmp_path / "stores", random_volumes(4, GRID))
    storage = ObjectStorage.from_url(f"s3://{BUCKET}/{request.node.name}/{local.storage.name}")
    for path in local.path.rglob("*"):
        if path.is_file():
            storage.write(path.relative_to(local.path).as_posix(), path.read_bytes())
    return storage


def copies(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*-*"))


def test_a_chunk_is_fetched_once_by_a_machine(
    remote: ObjectStorage, s3_server: S3Server, tmp_path: Path
) -> None:
    expected = random_volumes(4, GRID)
    store = Store.open(remote)
    for _ in range(2):
        assert all(np.array_equal(store.read(row), expected[row]) for row in range(4))
    fetched = [path for method, path in s3_server.requests() if "/c/" in path and method == "GET"]
    assert len([path for path in fetched if remote.prefix in path]) == 4
    assert len(copies(tmp_path)) == 4
    sent = len(s3_server.requests())
    another = Store.open(str(remote))  # as another run would
    assert np.array_equal(another.read(2), expected[2])
    assert not [path for _, path in s3_server.requests()[sent:] if "/c/" in path]


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_copy_is_fetched_again(remote: ObjectStorage, tmp_path: Path, how: str) -> None:
    expected = random_volumes(4, GRID)[0]
    Store.open(remote).read(0)
    (path,) = copies(tmp_path)
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:9] if how == "cut" else data)
    assert np.array_equal(Store.open(remote).read(0), expected)
    assert copies(tmp_path)[0].read_bytes() == expected.tobytes()


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_slices_of_a_copy_that_made_room_are_fetched_again(
    remote: ObjectStorage, tmp_path: Path, compression: str
) -> None:
    expected = random_volumes(4, GRID)[0]
    if compression == "lz4":
        local = make_store(tmp_path / "lz4", random_volumes(4, GRID), compression="lz4")
        prefix = f"{remote.prefix}/{local.storage.name}"
        remote = ObjectStorage(remote.bucket, prefix, remote.access)
        for path in filter(Path.is_file, local.path.rglob("*")):
            remote.write(path.relative_to(local.path).as_posix(), path.read_bytes())
    store = Store.open(remote)
    store.read(0)
    (copy,) = copies(tmp_path)
    copy.unlink()
    reader.forget(str(copy))  # as when many others were read since
    assert np.array_equal(store.read_slices(0, [2, 0]), expected[[2, 0]])


def test_the_error_of_a_damaged_object_names_what_finds_it(
    remote: ObjectStorage,
) -> None:
    remote.write(chunk_key(3), bytes(CHUNK))
    with pytest.raises(StoreCorrupt, match="--deep"):
        Store.open(remote).read(3)


def test_a_damaged_object_is_never_kept(remote: ObjectStorage, tmp_path: Path) -> None:
    remote.write(chunk_key(3), bytes(CHUNK))
    store = Store.open(remote)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match=r"series-003.*checksum"):
            store.read(3)
    assert copies(tmp_path) == []


def test_a_row_that_was_made_anew_is_not_read_from_the_old_copy(remote: ObjectStorage) -> None:
    old = random_volumes(4, GRID)[0]
    store = Store.open(remote)
    assert np.array_equal(store.read(0), old)
    new = random_volumes(1, GRID, seed=5)[0]
    remote.write(chunk_key(0), new.data)
    was = read_record(remote, 0)
    assert was is not None
    record = replace(was, chunk_checksum=xxhash.xxh3_128_hexdigest(new.data))
    chunks = ChunkCache(remote, store.digest, xxhash.xxh3_128_hexdigest)
    assert np.array_equal(Store(remote, store.spec, RecordTable([record]), chunks).read(0), new)


def test_threads_may_read_at_once_from_a_cache_that_is_too_small(
    remote: ObjectStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VOCO_CACHE_GB", str(2 * CHUNK / 1e9))
    expected, store = random_volumes(4, GRID), Store.open(remote)
    assert "raise VOCO_CACHE_GB" in caplog.text
    wrong: list[int] = []

    def read(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, 4, 25).tolist()
        wrong.extend(r for r in rows if not np.array_equal(store.read(r), expected[r]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_network_error_is_not_taken_for_damage(
    remote: ObjectStorage, s3_server: S3Server
) -> None:
    class Broken(ObjectStorage):
        def read(self, key: str) -> bytes:
            if "/c/" in key:
                raise OSError("the line is cut")
            return super().read(key)

    store = Store.open(Broken(remote.bucket, remote.prefix, remote.access))
    with pytest.raises(OSError, match="cut"):
        store.read(0)
