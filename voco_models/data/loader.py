"""From stores to batches: threads read ahead, and the order is computed, never stored.

Batch number k of a run is a pure function of (items, batch size, seed, rank, world, k). A resumed
run therefore continues with exactly the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_models.data.items import Item, choose_dtype, common_layout
from voco_models.data.prefetch import READER_THREADS, HostBuffer, HostBuffers, read_ahead
from voco_models.data.resident import Residence, Resident, make_resident
from voco_models.data.sampling import Order, step_seed


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of an objective."""

    volumes: Tensor
    """Stored voxels (B, Z, Y, X), on the device, of the loader's `dtype`."""
    items: Tensor
    """int64 (B,), on the CPU: index of each volume in the loader's items."""
    seed: int
    """Seed of this step and rank, for all random draws of an objective."""
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    """(B, ...) each, on the device: the rows of the loader's targets, by name."""


class Loader:
    """Batches of volumes from one or more stores of one grid and one voxel type.

    An epoch has `steps_per_epoch` full batches; it leaves out the volumes that do not fill the last
    one, and each epoch is shuffled anew. Memory is bounded, whatever the size of the stores. With
    b bytes in a batch, a stream takes `AHEAD` * b of pinned host memory for CUDA, and b on the
    device for each batch that the caller holds. On the CPU it takes (`AHEAD` + 1) * b, and b for
    each batch but the last that the caller holds: a batch is the memory that was read into, used
    again when the caller holds no reference to it. A reader thread may hold one more volume,
    decoded or not.

    `targets` are tensors with a row for every item, by name; each batch carries its rows of them.

    `dtype` is the stores' own type, which is the default, or float32: then readers convert the
    stored values, which is faster where batches are used on the CPU. Floats of one-byte voxels take
    four times the memory, and four times the transfer to a device.

    `resident` keeps all volumes in memory, in the stores' type: in `ram`, or on the `device`, where
    no thread and no host memory is needed. They are read and checked in the constructor. Give a
    `Resident` to share one between loaders. Order, seeds and contents are those of streaming.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        targets: Mapping[str, Tensor] | None = None,
        rank: int = 0,
        world: int = 1,
        threads: int = READER_THREADS,
        resident: Residence | Resident | None = "none",
        dtype: torch.dtype | None = None,
    ) -> None:
        self._order = Order(len(items), batch_size, seed, rank, world)
        self.grid, stored = common_layout({item.store for item in items})
        for name, values in (targets or {}).items():
            if len(values) != len(items):
                raise ValueError(
                    f"expected {len(items)} rows of targets, got {len(values)} of {name}"
                )
        self.items = items
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.targets = dict(targets or {})
        self.rank = rank
        self.world = world
        self.threads = threads
        self.dtype = choose_dtype(dtype, stored)
        if isinstance(resident, str):
            resident = make_resident(items, resident, device, threads)
        self._resident = resident
        self._places = None if resident is None else resident.places(items)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch of this rank."""
        return self._order.steps_per_epoch

    def indices_at(self, step: int) -> npt.NDArray[np.int64]:
        """Items of batch number `step`; int64 (B,)."""
        return self._order.indices_at(step)

    def at(self, step: int) -> Generator[Batch, None, None]:
        """Batches number `step`, `step + 1`, ... without end. Close it to stop the readers.

        Raises what a reader raised, such as StoreCorrupt, in the thread that iterates.
        """
        return self._batches((s, self.indices_at(s)) for s in itertools.count(step))

    def once(self) -> Generator[Batch, None, None]:
        """Every item once, in order; the last batch may be smaller. For evaluation."""
        every = np.arange(len(self.items))
        starts = range(0, len(every), self.batch_size)
        return self._batches((i, every[i : i + self.batch_size]) for i in starts)

    def _batches(self, plan: Iterable[_Step]) -> Generator[Batch, None, None]:
        if self._resident is not None and self._resident.on_device:
            return self._select(plan, self._resident)
        return self._stream(plan)

    def _select(self, plan: Iterable[_Step], resident: Resident) -> Generator[Batch, None, None]:
        """Batches of volumes that are on the device already."""
        assert self._places is not None
        for step, indices in plan:
            places = self._places[torch.from_numpy(indices.copy())]
            yield self._make_batch(step, indices, resident.batch(places).to(self.dtype))

    def _stream(self, plan: Iterable[_Step]) -> Generator[Batch, None, None]:
        """Batches that threads read ahead."""
        buffers = HostBuffers((self.batch_size, *self.grid), self.device, self.dtype)
        shares = range(min(self.threads, self.batch_size))

        def start(pool: ThreadPoolExecutor, step: _Step) -> _PendingBatch:
            number, indices = step
            buffer = buffers.take()
            places = list(enumerate(indices.tolist()))
            # One task a thread: submitting a task costs a good part of the time of a read.
            reads = [pool.submit(self._fill, buffer, places[n :: self.threads]) for n in shares]
            return _PendingBatch(buffer, number, indices, reads)

        return read_ahead(plan, start, self._finish, self.threads)

    def _fill(self, buffer: HostBuffer, places: Sequence[tuple[int, int]]) -> None:
        """Read pairs of place in the batch and index of an item. Runs in a reader thread."""
        buffer.ready()
        for place, index in places:
            self._read(index, buffer.array[place])

    def _read(self, index: int, out: npt.NDArray[Any]) -> None:
        if self._resident is not None:
            assert self._places is not None
            self._resident.read_into(int(self._places[index]), out)
            return
        item = self.items[index]
        if self.dtype == torch.float32:
            item.store.read_floats(item.row, out)
        else:
            item.store.read(item.row, out=out)

    def _finish(self, pending: _PendingBatch) -> Batch:
        for read in pending.reads:
            read.result()
        volumes = pending.buffer.send(len(pending.indices), self.device)
        return self._make_batch(pending.step, pending.indices, volumes)

    def _make_batch(self, step: int, indices: npt.NDArray[np.int64], volumes: Tensor) -> Batch:
        items = torch.from_numpy(indices.copy())
        return Batch(
            volumes=volumes,
            items=items,
            seed=step_seed(self.seed, step, self.rank),
            targets={name: rows[items].to(self.device) for name, rows in self.targets.items()},
        )


_Step = tuple[int, npt.NDArray[np.int64]]
"""Number of a batch, and its items."""


@dataclass(frozen=True, slots=True)
class _PendingBatch:
    buffer: HostBuffer
    step: int
    indices: npt.NDArray[np.int64]
    reads: list[Future[None]]
