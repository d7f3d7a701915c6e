"""Chunks on disk: whole volumes, single slices, both codecs, damage, and open files."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.project import PROJECT
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import StoreCorrupt, VocoError
from voco_data.storage.local import LocalStorage
from voco_data.store.chunks import reader
from voco_data.store.chunks.codec import Compression, DamagedChunk, decode, encode
from voco_data.store.chunks.mapped_files import MappedFile, MappedFiles, ReplacedChunk
from voco_data.store.integrity import check_row
from voco_data.store.keys import chunk_key
from voco_data.store.reader import Store
from voco_data.volumes.voxels import aligned_bytes

GRID = (5, 24, 32)
VOLUMES = random_volumes(4, GRID)
BOTH: tuple[Compression, ...] = ("none", "lz4")


def chunk(store: Store, row: int = 0) -> Path:
    return store.path / chunk_key(row)


def flip(store: Store, good: bytes, storage: int, bit: int = 4) -> None:
    bad = bytearray(good)
    bad[storage] ^= 1 << bit
    chunk(store).write_bytes(bad)


def n_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def misaligned(shape: tuple[int, ...], by: int) -> npt.NDArray[np.uint8]:
    size = int(np.prod(shape))
    return aligned_bytes(size + 64)[by : by + size].reshape(shape)


@pytest.mark.parametrize("compression", BOTH)
@pytest.mark.parametrize("by", [0, 1, 16, 32])
def test_volumes_come_back_into_any_memory(
    tmp_path: Path, compression: Compression, by: int
) -> None:
    store = make_store(tmp_path, VOLUMES, compression=compression)
    for row, volume in enumerate(VOLUMES):
        out = misaligned(GRID, by)
        assert store.read(row, out) is out
        assert np.array_equal(out, volume)
        assert np.array_equal(store.read(row), volume)  # the second time unchecked


@pytest.mark.parametrize("compression", BOTH)
def test_first_reads_come_back_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: Compression
) -> None:
    """As floats, and into memory where a system call would be slow."""
    monkeypatch.setattr("voco_data.store.chunks.mapped_files._CONVERSION_BYTES", 1000)
    path = make_store(tmp_path, VOLUMES, compression=compression).path
    assert np.array_equal(Store.open(path).read(0, misaligned(GRID, 1)), VOLUMES[0])
    store, floats = Store.open(path), np.empty(GRID, np.float32)
    store.read(1)
    reader.forget(str(path / chunk_key(1)))
    store.read_floats(1, floats)
    assert np.array_equal(floats, VOLUMES[1])


@pytest.mark.parametrize("compression", BOTH)
def test_slices_come_back_in_the_order_asked_for(tmp_path: Path, compression: Compression) -> None:
    store = make_store(tmp_path, VOLUMES, compression=compression)
    wanted = [4, 0, 0, 3]
    for _ in range(2):  # the first touch reads and checks the whole chunk
        assert np.array_equal(store.read_slices(2, wanted), VOLUMES[2][wanted])
    out = np.zeros((2, *GRID[1:]), np.uint8)
    assert store.read_slices(1, np.array([1, 2]), out) is out  # type: ignore[arg-type]
    assert np.array_equal(out, VOLUMES[1][1:3])


def test_slices_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path, VOLUMES)
    for bad in (-1, 5):
        with pytest.raises(IndexError, match="0 to 4"):
            store.read_slices(0, [bad])
    with pytest.raises(ValueError, match="C-contiguous"):
        store.read_slices(0, [1], np.zeros((2, *GRID[1:]), np.uint8))
    with pytest.raises(KeyError):
        store.read_slices(9, [0])


@pytest.mark.parametrize("compression", BOTH)
@pytest.mark.parametrize("read", [Store.read, lambda store, row: store.read_slices(row, [0])])
def test_rot_anywhere_in_a_chunk_is_found_whatever_is_read_of_it(
    tmp_path: Path, compression: Compression, read: Callable[[Store, int], object]
) -> None:
    store = make_store(tmp_path, VOLUMES, compression=compression)
    good = chunk(store).read_bytes()
    for storage in np.linspace(16, len(good) - 1, 40).astype(int).tolist():
        flip(store, good, storage)
        with pytest.raises(StoreCorrupt, match="series-000"):
            read(Store.open(store.path), 0)


def test_rot_in_the_header_of_a_frame_gives_no_other_voxels(tmp_path: Path) -> None:
    store = make_store(tmp_path, VOLUMES, compression="lz4")
    good = chunk(store).read_bytes()
    refused = 0
    for storage, bit in itertools.product(range(16), range(8)):
        flip(store, good, storage, bit)
        with contextlib.suppress(StoreCorrupt):
            assert np.array_equal(Store.open(store.path).read(0), VOLUMES[0])
            continue
        refused += 1
    assert refused >= 64  # both sizes, every bit


@pytest.mark.parametrize("size", [0, 8, 15, 16, 200])
def test_a_torn_compressed_chunk_is_refused_by_series_name(tmp_path: Path, size: int) -> None:
    store = make_store(tmp_path, VOLUMES, compression="lz4")
    chunk(store).write_bytes(chunk(store).read_bytes()[:size])
    with pytest.raises(StoreCorrupt, match="series-000"):
        store.read(0)


def test_a_frame_that_claims_another_size_is_not_decoded() -> None:
    volume = VOLUMES[0]
    frame = bytearray(encode(volume, "lz4"))
    out = np.zeros(volume.size, np.uint8)
    decode(memoryview(frame), out.data)
    assert np.array_equal(out.reshape(GRID), volume)
    for claimed in (0, 1, volume.size - 1, volume.size + 1, 2**31 - 1):
        struct.pack_into("<I", frame, 4, claimed)
        with pytest.raises(DamagedChunk, match=f"become {claimed}"):
            decode(memoryview(frame), out.data)


def test_a_compressed_chunk_longer_than_any_is_not_read(tmp_path: Path) -> None:
    store = make_store(tmp_path, VOLUMES, compression="lz4")
    with chunk(store).open("ab") as file:
        file.truncate(10**9)  # sparse
    with pytest.raises(StoreCorrupt, match="1000000000 bytes, expected at most"):
        store.read(0)


def test_noise_that_does_not_compress_comes_back(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, *GRID), np.uint8)
    store = make_store(tmp_path, noise, compression="lz4")
    assert np.array_equal(store.read(0), noise[0])


@pytest.mark.parametrize("compression", BOTH)
def test_a_chunk_that_shrinks_while_it_is_in_use_is_refused(
    tmp_path: Path, compression: Compression
) -> None:
    store = make_store(tmp_path, VOLUMES, compression=compression)
    for _ in range(3):
        store.read(0)
    with chunk(store).open("r+b") as file:
        file.truncate(10)
    with pytest.raises(StoreCorrupt, match="series-000"):
        store.read(0)


def test_a_chunk_that_was_rebuilt_is_read_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path, VOLUMES)
    good = chunk(store).read_bytes()
    chunk(store).write_bytes(bytes(len(good)))
    with pytest.raises(StoreCorrupt):
        store.read(0)
    rebuilt = chunk(store).with_name("new")
    rebuilt.write_bytes(good)
    rebuilt.replace(chunk(store))
    assert np.array_equal(store.read(0), VOLUMES[0])


def test_threads_share_a_store(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / c, VOLUMES, compression=c) for c in BOTH]
    wrong = []

    def look(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            store, row, z = stores[rng.integers(2)], int(rng.integers(4)), int(rng.integers(5))
            if not np.array_equal(store.read(row), VOLUMES[row]):
                wrong.append(row)
            if not np.array_equal(store.read_slices(row, [z])[0], VOLUMES[row, z]):
                wrong.append(row)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def mappings(folder: Path) -> int:
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_mapped_files_are_bounded_and_go(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(index)) for index in range(20)]
    for path in paths:
        Path(path).write_text(path)
    files = MappedFiles(limit=5)
    kept = files.get(paths[0])
    room = np.zeros(len(paths[-1]), np.uint8)
    for path in paths:
        for _ in range(3):
            assert files.get(path).read_into(room) == len(path)
            assert room[: len(path)].tobytes().decode() == path
    assert len(files) == 5
    assert mappings(tmp_path) == 6
    Path(paths[0]).unlink()
    for _ in range(3):  # let go by all others, still mapped here
        room[:] = 0
        assert kept.read_into(room) == len(paths[0])
        assert room[: len(paths[0])].tobytes().decode() == paths[0]
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(kept.get_mapping())[0] = 0
    del kept, files
    assert mappings(tmp_path) == 0


@pytest.mark.parametrize("compression", BOTH)
def test_few_descriptors_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: Compression
) -> None:
    monkeypatch.setattr(
        "voco_data.store.chunks.mapped_files._descriptor_slots", threading.BoundedSemaphore(2)
    )
    store = make_store(tmp_path, VOLUMES, compression=compression)
    before = n_open()
    for _ in range(3):
        for row in range(4):
            assert np.array_equal(store.read(row), VOLUMES[row])
            store.read_slices(row, [0])
    assert n_open() == before + 2
    for row in range(4):  # whether a descriptor was kept, or not
        os.truncate(chunk(store, row), 10)
        with pytest.raises(StoreCorrupt, match=f"series-00{row}"):
            store.read(row)
    for row in range(4):
        reader.forget(str(chunk(store, row)))
    assert n_open() == before


@pytest.mark.parametrize("kept", [0, 9])
@pytest.mark.parametrize("compression", BOTH)
def test_a_file_that_was_replaced_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: Compression, kept: int
) -> None:
    """By another volume, as when a row is given away after a patient was forgotten."""
    monkeypatch.setattr(
        "voco_data.store.chunks.mapped_files._descriptor_slots", threading.BoundedSemaphore(kept)
    )
    store = make_store(tmp_path, VOLUMES, compression=compression)
    reads: tuple[Callable[[], object], ...] = (
        lambda: store.read(0),
        lambda: store.read_slices(0, [1]),
        lambda: store.view_slice(0, 1),
        lambda: store.read_floats(0, np.zeros(GRID, np.float32)),
    )
    for read in reads:
        for _ in range(3):
            store.read(0)
        good = chunk(store).read_bytes()
        folder = LocalStorage(store.path)
        folder.write(chunk_key(0), encode(VOLUMES[1], compression))
        reader.forget(str(chunk(store)))  # as when many others were read since
        with pytest.raises(StoreCorrupt, match=r"series-000.*checksum"):
            read()
        folder.write(chunk_key(0), good)
        assert np.array_equal(store.read(0), VOLUMES[0])


@pytest.mark.parametrize("reads", [0, 1])
def test_a_file_that_is_replaced_before_it_is_opened_is_noticed(tmp_path: Path, reads: int) -> None:
    """The first read goes by a system call, the second by a mapping."""
    path, out = tmp_path / "chunk", aligned_bytes(100)
    path.write_bytes(bytes(100))
    file = MappedFile(str(path))
    for _ in range(reads):
        assert file.read_into(out) == 100
    LocalStorage(tmp_path).write("chunk", bytes(range(100)))
    with pytest.raises(ReplacedChunk):
        file.read_into(out)


def test_a_chunk_that_is_cut_short_and_rebuilt_under_a_reader_is_read_anew(tmp_path: Path) -> None:
    """Without a descriptor the mapping's own file cannot be asked: a wrong answer is a SIGBUS."""
    program = """
import os, sys, threading
from pathlib import Path
from voco_data.storage.local import LocalStorage
from voco_data.store.chunks import mapped_files
from voco_data.store.keys import chunk_key
from voco_data.store.reader import Store
mapped_files._kept = threading.BoundedSemaphore(0)
store = Store.open(sys.argv[1])
for _ in range(3):
    before = store.read(0).tobytes()
path = store.path / chunk_key(0)
good = path.read_bytes()
os.truncate(path, 10)
LocalStorage(store.path).write(chunk_key(0), good)
assert store.read(0).tobytes() == before
"""
    store = make_store(tmp_path, random_volumes(1, (8, 64, 64)))
    subprocess.run([sys.executable, "-c", program, str(store.path)], check=True, cwd=PROJECT)


@contextlib.contextmanager
def descriptors(limit: int) -> Iterator[None]:
    """No file gets a descriptor of this number or above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lack_of_descriptors_is_not_blamed_on_the_store(tmp_path: Path) -> None:
    store = make_store(tmp_path, VOLUMES)
    before = chunk(store).stat()
    with descriptors(3), pytest.raises(OSError, match="Too many open files") as caught:
        store.read(0)
    assert not isinstance(caught.value, StoreCorrupt)
    with descriptors(3), pytest.raises(VocoError, match=r"Too many open files.*no damage"):
        check_row(store.storage, store.spec, 0)
    assert chunk(store).stat().st_mtime_ns == before.st_mtime_ns
    assert np.array_equal(store.read(0), VOLUMES[0])


def test_files_that_cannot_be_mapped_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _size: int) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("voco_data.store.chunks.mapped_files._map", refuse)
    for compression in BOTH:
        store = make_store(tmp_path / compression, VOLUMES, compression=compression)
        for _ in range(3):
            assert np.array_equal(store.read(1), VOLUMES[1])
            assert np.array_equal(store.read_slices(1, [4, 0]), VOLUMES[1, [4, 0]])


def test_another_process_opens_the_store_itself(tmp_path: Path) -> None:
    store = pickle.loads(pickle.dumps(make_store(tmp_path, VOLUMES)))
    assert np.array_equal(store.read(3), VOLUMES[3])
