"""The loader: order and contents of batches, bounded memory, and errors."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError, StoreCorrupt
from voco_data.store.chunks.codec import Compression
from voco_data.store.keys import chunk_key
from voco_data.store.reader import Store
from voco_models.data import loader as loader_module, resident as resident_module
from voco_models.data.items import Item, items_of
from voco_models.data.loader import Batch, Loader
from voco_models.data.prefetch import BATCHES_AHEAD, HostBuffers
from voco_models.data.resident import Residence, make_resident
from voco_models.data.sampling import epoch_order, step_seed
from voco_models.data.slice_loader import SliceLoader

CPU = torch.device("cpu")
GRID = (2, 3, 4)


class FakeStore:
    """Volumes full of their row number; counts its reads."""

    def __init__(self, rows: list[int], grid: tuple[int, int, int] = GRID) -> None:
        self.grid = grid
        self.dtype = np.dtype(np.uint8)
        self.rows = np.array(rows, np.int64)
        self.reads: list[int] = []

    def read(self, row: int, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        volume = np.empty(self.grid, np.uint8) if out is None else out
        volume[:] = row
        self.reads.append(row)
        return volume

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        out[...] = self.read(row)


def loader_of(n: int, batch_size: int = 2, **options: int) -> Loader:
    items = items_of([FakeStore(list(range(n)))])
    return Loader(items, batch_size=batch_size, device=CPU, **{"seed": 0, **options})


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    world=st.integers(1, 8),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 10**6),
)
def test_an_epoch_visits_no_item_twice_and_ranks_share_alike(
    n: int, world: int, seed: int, epoch: int
) -> None:
    if n < world:
        with pytest.raises(InputError, match="at least one volume"):
            epoch_order(n, seed, epoch, 0, world)
        return
    shards = [epoch_order(n, seed, epoch, rank, world) for rank in range(world)]
    assert {len(shard) for shard in shards} == {n // world}
    visited = np.concatenate(shards).tolist()
    assert len(set(visited)) == len(visited)
    assert set(visited) <= set(range(n))
    assert np.array_equal(shards[-1], epoch_order(n, seed, epoch, world - 1, world))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_step_seeds_differ_by_seed_step_and_stream() -> None:
    seeds = {step_seed(*key) for key in itertools.product(range(5), range(20), range(3))}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(3, 4, 1) == step_seed(3, 4, 1)


def test_an_epoch_covers_the_items_that_fill_batches() -> None:
    loader = loader_of(7)
    assert loader.steps_per_epoch == 3
    for epoch in range(4):
        seen = np.concatenate([loader.indices_at(3 * epoch + k) for k in range(3)]).tolist()
        assert len(set(seen)) == 6


def test_batches_hold_the_volumes_of_their_items() -> None:
    loader = loader_of(6, batch_size=3)
    for step, batch in zip(range(8), loader.batches_from(0), strict=False):
        assert batch.volumes.shape == (3, *GRID)
        assert batch.volumes.dtype == torch.uint8
        assert batch.volumes[:, 0, 0, 0].tolist() == batch.items.tolist()
        assert (batch.volumes == batch.items[:, None, None, None]).all()
        assert batch.items.tolist() == loader.indices_at(step).tolist()
        assert batch.seed == step_seed(0, step)


def test_a_batch_stays_as_it_is_while_the_next_ones_are_read() -> None:
    stream = loader_of(20).batches_from(0)
    kept = [next(stream) for _ in range(3 * BATCHES_AHEAD)]
    stream.close()
    for batch in kept:
        assert batch.volumes[:, 0, 0, 0].tolist() == batch.items.tolist()


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 40), batch_size=st.integers(1, 5))
def test_a_stream_can_start_in_the_middle_of_an_epoch(start: int, batch_size: int) -> None:
    loader = loader_of(11, batch_size)
    whole = list(itertools.islice(loader.batches_from(0), start + 4))[start:]
    resumed = list(itertools.islice(loader_of(11, batch_size).batches_from(start), 4))
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one.items, other.items)
        assert torch.equal(one.volumes, other.volumes)
        assert one.seed == other.seed


def test_ranks_share_the_batch_of_one_process_and_its_seed() -> None:
    for step in range(4):
        (one,) = itertools.islice(loader_of(24, 6).batches_from(step), 1)
        ranks = [next(loader_of(24, 3, rank=rank, world=2).batches_from(step)) for rank in (0, 1)]
        joined = ranks[0].items.tolist() + ranks[1].items.tolist()
        assert sorted(joined) == sorted(one.items.tolist())
        assert ranks[0].seed == ranks[1].seed == one.seed


def test_batches_carry_the_targets_of_their_items() -> None:
    items = items_of([FakeStore(list(range(5)))])
    targets = torch.arange(5) * 10
    named = {"tens": targets, "halves": targets / 20}
    loader = Loader(items, batch_size=2, seed=0, device=CPU, targets=named)
    for batch in itertools.islice(loader.batches_from(0), 5):
        assert set(batch.targets) == {"tens", "halves"}
        assert batch.targets["tens"].tolist() == (batch.items * 10).tolist()
        assert batch.targets["halves"].tolist() == (batch.items / 2).tolist()
    with pytest.raises(ValueError, match="5 rows of targets, got 4 of tens"):
        Loader(items, batch_size=2, seed=0, device=CPU, targets={"tens": targets[:4]})


def test_once_gives_every_item_in_order_with_a_smaller_last_batch() -> None:
    batches = list(loader_of(5).ordered_batches())
    assert [batch.items.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert [len(batch.volumes) for batch in batches] == [2, 2, 1]


def test_read_ahead_is_bounded() -> None:
    store = FakeStore(list(range(100)))
    stream = Loader(items_of([store]), batch_size=2, seed=0, device=CPU).batches_from(0)
    for _ in range(5):
        next(stream)
    stream.close()  # waits for the readers
    assert len(store.reads) <= 2 * (5 + BATCHES_AHEAD)


def test_closing_the_stream_ends_its_threads() -> None:
    stream = loader_of(10).batches_from(0)
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("voco-reader")]


def test_reads_overlap() -> None:
    """Two readers must be inside `read` together, or the barrier breaks."""
    barrier = threading.Barrier(2, timeout=20)

    class Meeting(FakeStore):
        def read(self, row: int, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
            barrier.wait()
            return super().read(row, out)

    loader = Loader(items_of([Meeting([0, 1, 2, 3])]), batch_size=2, seed=0, device=CPU, threads=2)
    assert len(list(loader.ordered_batches())) == 2


@pytest.mark.parametrize(("n", "batch_size"), [(1, 2), (0, 1), (5, 0)])
def test_too_few_volumes_for_a_batch_are_refused(n: int, batch_size: int) -> None:
    with pytest.raises(InputError, match="batch size"):
        loader_of(n, batch_size)


def test_stores_of_two_grids_are_refused() -> None:
    items = items_of([FakeStore([0]), FakeStore([0], grid=(2, 2, 2))])
    with pytest.raises(InputError, match="one grid"):
        Loader(items, batch_size=1, seed=0, device=CPU)


def test_real_stores_give_their_bytes(tmp_path: Path) -> None:
    one, two = random_volumes(3, (4, 6, 6), seed=1), random_volumes(2, (4, 6, 6), seed=2)
    stores = [make_store(tmp_path / "a", one), make_store(tmp_path / "b", two)]
    items = items_of(stores)
    expected = np.concatenate([one, two])
    batches = list(Loader(items, batch_size=2, seed=0, device=CPU).ordered_batches())
    assert np.array_equal(torch.cat([batch.volumes for batch in batches]).numpy(), expected)
    for batch in itertools.islice(
        Loader(items, batch_size=2, seed=3, device=CPU).batches_from(7), 6
    ):
        assert np.array_equal(batch.volumes.numpy(), expected[batch.items.numpy()])


def test_a_corrupt_chunk_raises_in_the_caller(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(3, (4, 6, 6)))
    path = store.path / chunk_key(1)
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="series-001"):
        list(Loader(items_of([store]), batch_size=1, seed=0, device=CPU).ordered_batches())
    with pytest.raises(StoreCorrupt, match="series-001"):
        list(
            itertools.islice(
                Loader(items_of([store]), batch_size=1, seed=0, device=CPU).batches_from(0), 4
            )
        )


def test_memory_on_the_host_is_bounded_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[HostBuffers] = []

    class Counted(HostBuffers):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(loader_module, "HostBuffers", Counted)
    addresses = set()
    stream = loader_of(40).batches_from(0)
    for batch in itertools.islice(stream, 60):
        addresses.add(batch.volumes.data_ptr())
    stream.close()
    assert made[0].size == len(addresses) == BATCHES_AHEAD + 1


def test_a_view_of_a_batch_keeps_its_memory() -> None:
    stream = loader_of(20).batches_from(0)
    first = next(stream)
    kept, item = first.volumes[1, 0], int(first.items[1])
    del first
    for _ in range(4 * BATCHES_AHEAD):
        next(stream)
    stream.close()
    assert (kept == item).all()


def test_a_batch_outlives_its_stream() -> None:
    stream = loader_of(4).batches_from(0)
    batch = next(stream)
    stream.close()
    del stream
    assert batch.volumes[:, 0, 0, 0].tolist() == batch.items.tolist()


@pytest.mark.parametrize("residence", ["ram", "device"])
def test_resident_volumes_give_the_batches_of_streaming(
    tmp_path: Path, residence: Residence
) -> None:
    stores = [
        make_store(tmp_path / "a", random_volumes(6, (4, 6, 6), seed=1)),
        make_store(tmp_path / "b", random_volumes(5, (4, 6, 6), seed=2), compression="lz4"),
    ]
    items = items_of(stores)
    targets = {"index": torch.arange(len(items))}

    def batches(resident: Residence, rank: int) -> list[Batch]:
        loader = Loader(
            items,
            batch_size=2,
            seed=7,
            device=CPU,
            targets=targets,
            rank=rank,
            world=2,
            resident=resident,
        )
        return [*itertools.islice(loader.batches_from(3), 9), *loader.ordered_batches()]

    for rank in (0, 1):
        for one, other in zip(batches("none", rank), batches(residence, rank), strict=True):
            assert torch.equal(one.volumes, other.volumes)
            assert torch.equal(one.items, other.items)
            assert one.seed == other.seed
            assert torch.equal(one.targets["index"], other.targets["index"])


def test_a_resident_batch_is_a_copy_and_each_volume_is_read_once() -> None:
    store = FakeStore([0, 1, 2])
    items = items_of([store])
    both: tuple[Residence, ...] = ("ram", "device")
    for residence in both:
        store.reads.clear()
        loader = Loader([*items, items[0]], batch_size=2, seed=0, device=CPU, resident=residence)
        for batch in itertools.islice(loader.batches_from(0), 6):
            assert batch.volumes[:, 0, 0, 0].tolist() == (batch.items % 3).tolist()
            batch.volumes.zero_()
        assert sorted(store.reads) == [0, 1, 2]


def test_loaders_share_resident_volumes() -> None:
    store = FakeStore([0, 1, 2, 3])
    items = items_of([store])
    resident = make_resident(items, "ram", CPU, threads=2)
    for part in (items[:2], items[2:]):
        loader = Loader(part, batch_size=2, seed=0, device=CPU, resident=resident)
        batch = next(loader.ordered_batches())
        assert batch.volumes[:, 0, 0, 0].tolist() == [item.row for item in part]
    assert len(store.reads) == 4


def test_volumes_that_do_not_fit_are_refused_with_both_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = items_of([FakeStore([0, 1, 2])])
    monkeypatch.setattr(resident_module, "free_bytes", lambda device: 71)
    with pytest.raises(InputError, match=r"3 volumes .* need 72 bytes in RAM, 71 are free"):
        Loader(items, batch_size=1, seed=0, device=CPU, resident="ram")
    with pytest.raises(InputError, match="one of none, ram, device"):
        Loader(items, batch_size=1, seed=0, device=CPU, resident="disk")  # type: ignore[arg-type]


def test_free_memory_is_the_smaller_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident_module, "CGROUP", tmp_path)
    machine = psutil.virtual_memory().available
    assert resident_module.free_bytes(CPU) == pytest.approx(machine, rel=0.1)
    for name, text in (
        ("memory.max", "1000"),
        ("memory.current", "900"),
        ("memory.stat", "anon 600\ninactive_file 300"),
    ):
        (tmp_path / name).write_text(text + "\n")
    assert resident_module.free_bytes(CPU) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert resident_module.free_bytes(CPU) == pytest.approx(machine, rel=0.1)


def test_a_corrupt_chunk_is_an_error_when_volumes_are_made_resident(tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(3, (4, 6, 6)))
    path = store.path / chunk_key(2)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(StoreCorrupt, match="series-002"):
        Loader(items_of([store]), batch_size=1, seed=0, device=CPU, resident="ram")


def test_a_failing_read_ends_the_stream_while_others_still_read() -> None:
    """The readers of later batches are slow; the error does not wait for the whole plan."""
    going_on = threading.Event()

    class Failing(FakeStore):
        def read(self, row: int, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
            if row == 0:
                raise OSError("gone")
            going_on.wait(0.2)
            return super().read(row, out)

    store = Failing(list(range(1000)))
    with pytest.raises(OSError, match="gone"):
        list(Loader(items_of([store]), batch_size=1, seed=0, device=CPU).ordered_batches())
    assert len(store.reads) <= BATCHES_AHEAD
    assert not [t for t in threading.enumerate() if t.name.startswith("voco-reader")]


def test_slices_are_those_of_their_items_and_an_epoch_visits_each_once(tmp_path: Path) -> None:
    volumes = random_volumes(5, (4, 6, 8))
    store = make_store(tmp_path, volumes)
    loader = SliceLoader([store], batch_size=5, seed=1, device=CPU)
    seen = []
    for batch in itertools.islice(loader.batches_from(0), 4):
        assert batch.slices.dtype == torch.uint8
        expected = volumes[batch.items.numpy(), batch.indices.numpy()]
        assert np.array_equal(batch.slices.numpy(), expected)
        seen += list(zip(batch.items.tolist(), batch.indices.tolist(), strict=True))
    assert len(set(seen)) == len(seen) == 20
    later = next(SliceLoader([store], batch_size=5, seed=1, device=CPU).batches_from(3))
    assert list(zip(later.items.tolist(), later.indices.tolist(), strict=True)) == seen[15:]


def test_items_may_repeat() -> None:
    item = Item(FakeStore([3]), 3)
    batch = next(Loader([item, item], batch_size=2, seed=0, device=CPU).batches_from(0))
    assert batch.volumes[:, 0, 0, 0].tolist() == [3, 3]


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_floats_are_the_same_values(tmp_path: Path, compression: Compression) -> None:
    volumes = random_volumes(6, GRID)
    store = make_store(tmp_path, volumes, compression=compression)
    options = {"batch_size": 2, "seed": 3, "device": CPU}
    items = items_of([store])
    whole = itertools.islice(Loader(items, **options).batches_from(0), 9)
    floats = itertools.islice(Loader(items, dtype=torch.float32, **options).batches_from(0), 9)
    for one, other in zip(whole, floats, strict=True):  # the first touch, the second, and later
        assert other.volumes.dtype == torch.float32
        assert torch.equal(one.volumes.float(), other.volumes)
    slices = itertools.islice(SliceLoader([store], **options).batches_from(0), 9)
    planes = itertools.islice(
        SliceLoader([store], dtype=torch.float32, **options).batches_from(0), 9
    )
    for one_plane, other_plane in zip(slices, planes, strict=True):
        assert torch.equal(one_plane.slices.float(), other_plane.slices)
    fresh = Store.open(store.path)
    out = np.empty(GRID, np.float32)
    for _ in range(3):
        fresh.read_floats(1, out)
        assert np.array_equal(out, volumes[1])
