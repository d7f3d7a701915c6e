"""From stores to batches: threads read ahead, and the order is arithmetic, not state.

Batch number k of a run is a pure function of (items, batch size, seed, rank, world, k). A resumed
run therefore continues with exactly the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from voco_data.errors import InputError

RING = 3
"""Batches in memory at most: one being used, two being read."""
READER_THREADS = 4
"""Reads in flight. A read is one file of 1-6 MB, so a few threads hide the latency of a disk."""


class VolumeSource(Protocol):
    """What the loader needs of a `voco_data.store.Store`."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume."""

    @property
    def catalogue(self) -> pd.DataFrame:
        """One line a stored series, with at least `row`."""

    def read(self, row: int, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """The volume at `row`, uint8 (Z, Y, X), into `out` where given."""


@dataclass(frozen=True, slots=True)
class Item:
    """One volume of one store."""

    store: VolumeSource
    row: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What an objective gets."""

    volumes: Tensor
    """uint8 (B, Z, Y, X), on the device."""
    items: Tensor
    """int64 (B,), on the CPU: index of each volume in the loader's items."""
    seed: int
    """Of this step and rank; every draw that an objective makes starts from it."""
    targets: Tensor | None = None
    """(B, ...), on the device: the rows of the loader's targets, where it has any."""


def items_of(stores: Iterable[VolumeSource]) -> list[Item]:
    """Every stored volume, store by store, in row order."""
    return [Item(store, int(row)) for store in stores for row in store.catalogue["row"]]


def epoch_order(
    n: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> npt.NDArray[np.int64]:
    """Which of `n` items this rank visits in `epoch`, in order; int64 (n // world,).

    Every rank gets the same number, no item comes twice, and the up to world - 1 items left out
    change from epoch to epoch. Raises InputError if there are fewer items than ranks.
    """
    if n < world:
        raise InputError(f"expected at least one volume for each of {world} processes, got {n}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    shuffled: npt.NDArray[np.int64] = rng.permutation(n)
    return shuffled[rank::world][: n // world]


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A well mixed 63-bit seed for one step of one rank."""
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))


class Loader:
    """Batches of uint8 volumes from one or more stores of one grid.

    An epoch has `steps_per_epoch` full batches; the volumes that do not fill the last one wait for
    another epoch. Memory is bounded: `RING` batches of B*Z*Y*X bytes (pinned for CUDA) and the
    batch in use on the device, whatever the size of the stores.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        targets: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
        threads: int = READER_THREADS,
    ) -> None:
        if batch_size < 1 or len(items) // world < batch_size:
            raise InputError(
                f"expected at least batch size x processes = {batch_size * world} volumes "
                f"(batch size 1 or more), got {len(items)}"
            )
        grids = {item.store.grid for item in items}
        if len(grids) > 1:
            raise InputError(f"expected stores of one grid, got {sorted(grids)}")
        if targets is not None and len(targets) != len(items):
            raise ValueError(f"expected {len(items)} rows of targets, got {len(targets)}")
        self.items = items
        self.grid = grids.pop()
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.targets = targets
        self.rank = rank
        self.world = world
        self.threads = threads
        self._epoch = 0  # the epoch whose order is remembered
        self._order = epoch_order(len(items), seed, 0, rank, world)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch of this rank."""
        return len(self.items) // self.world // self.batch_size

    def indices_at(self, step: int) -> npt.NDArray[np.int64]:
        """Items of batch number `step`; int64 (B,)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = epoch_order(len(self.items), self.seed, epoch, self.rank, self.world)
            self._epoch = epoch
        return self._order[within * self.batch_size : (within + 1) * self.batch_size]

    def at(self, step: int) -> Generator[Batch, None, None]:
        """Batches number `step`, `step + 1`, ... without end. Close it to stop the readers.

        Raises what a reader raised, such as StoreCorrupt, in the thread that asked for the batch.
        """
        return self._stream((s, self.indices_at(s)) for s in itertools.count(step))

    def once(self) -> Generator[Batch, None, None]:
        """Every item once, in order; the last batch may be smaller. For evaluation."""
        every = np.arange(len(self.items))
        starts = range(0, len(every), self.batch_size)
        return self._stream((i, every[i : i + self.batch_size]) for i in starts)

    def _stream(
        self, plan: Iterable[tuple[int, npt.NDArray[np.int64]]]
    ) -> Generator[Batch, None, None]:
        remaining = iter(plan)
        pinned = self.device.type == "cuda"
        slots = [_Slot((self.batch_size, *self.grid), pinned) for _ in range(RING)]
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="voco-reader")
        try:
            ahead: deque[_Pending] = deque()
            for slot, (step, indices) in zip(slots, remaining, strict=False):
                ahead.append(self._start(pool, slot, step, indices))
            while ahead:
                pending = ahead.popleft()
                batch = self._finish(pending)
                following = next(remaining, None)
                if following is not None:
                    ahead.append(self._start(pool, pending.slot, *following))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(
        self, pool: ThreadPoolExecutor, slot: _Slot, step: int, indices: npt.NDArray[np.int64]
    ) -> _Pending:
        reads = [
            pool.submit(slot.fill, place, self.items[index])
            for place, index in enumerate(indices.tolist())
        ]
        return _Pending(slot, step, indices, reads)

    def _finish(self, pending: _Pending) -> Batch:
        for read in pending.reads:
            read.result()
        items = torch.from_numpy(pending.indices.copy())
        return Batch(
            volumes=pending.slot.send(len(items), self.device),
            items=items,
            seed=step_seed(self.seed, pending.step, self.rank),
            targets=None if self.targets is None else self.targets[items].to(self.device),
        )


class _Slot:
    """Host memory of one batch, used again and again."""

    def __init__(self, shape: tuple[int, ...], pinned: bool) -> None:
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self._view = self._host.numpy()
        self._pinned = pinned
        self._sent: torch.Event | None = None

    def fill(self, place: int, item: Item) -> None:
        """Read one volume, once the last copy out of this slot is over. Runs in a reader thread."""
        if self._sent is not None:
            self._sent.synchronize()
        item.store.read(item.row, out=self._view[place])

    def send(self, count: int, device: torch.device) -> Tensor:
        """A copy on the device of the first `count` volumes."""
        volumes = self._host[:count].to(device, non_blocking=self._pinned, copy=True)
        if self._pinned:
            self._sent = torch.Event(device, blocking=True)
            self._sent.record()
        return volumes


@dataclass(frozen=True, slots=True)
class _Pending:
    slot: _Slot
    step: int
    indices: npt.NDArray[np.int64]
    reads: list[Future[None]]
