"""Batches of volumes from stores. Threads read ahead; the order of volumes is computed.

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
from voco_models.data.resident import Residence, ResidentVolumes, make_resident
from voco_models.data.sampling import BatchOrder, count_earlier, step_seed
from voco_models.data.transfer import copy_to_device

REPEAT = 2**40
"""Added to an item for each earlier place in its batch; more than the items of any loader."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of an objective."""

    volumes: Tensor
    """Stored voxels (B, Z, Y, X), on the device, of the loader's `dtype`."""
    items: Tensor
    """int64 (B,), on the CPU: index of each volume in the loader's items."""
    seed: int
    """Seed of this step, alike for all processes. Draws for one volume also use its item."""
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    """Targets by name, (B, ...) each, on the device: rows of the loader's targets."""
    repeats: Tensor | None = None
    """int64 (B,), on the CPU: how often each item comes before in the batch of all processes. None
    if `items` are the whole batch."""

    def draw_keys(self) -> list[int]:
        """A number for each volume, from which its random choices are drawn.

        It is the item, and another number if the batch has the item twice.
        """
        items = self.items.numpy()
        repeats = count_earlier(items) if self.repeats is None else self.repeats.numpy()
        return [int(n) for n in items + repeats * REPEAT]


class Loader:
    """Batches of volumes from one or more stores of one grid and one voxel type.

    An epoch has `steps_per_epoch` full batches. Each epoch is shuffled anew and leaves out the
    volumes that do not fill its last batch.

    Memory does not depend on the size of the stores. With b bytes in a batch, a stream takes
    `BATCHES_AHEAD` * b of pinned host memory for CUDA, and b on the device for each batch that the
    caller holds. On the CPU it takes (`BATCHES_AHEAD` + 1) * b, and b for each batch but the last
    that the caller holds: a batch is the memory that was read into, and it is reused when the
    caller holds no reference to it. Each reader thread may hold one more volume, decoded or not.

    Parameters
    ----------
    items : volumes to load, of stores of one grid and one voxel type.
    batch_size : volumes in a batch.
    seed : seed of the order and of the seeds in batches.
    device : device of the batches.
    weights : how often each item is drawn, relative to the others: (len(items),), above 0; equally
        often if None. An epoch has as many batches as without weights. An item with a weight above
        the mean comes several times in an epoch, in different batches where this is possible.
    targets : tensors by name, each with one row per item; a batch carries the rows of its items.
    rank, world : index of this process, and the number of processes that share the items.
    threads : reader threads.
    resident : `ram` or `device` reads all volumes in the constructor and keeps them there, in the
        stores' type; `none` streams them. On the `device`, no thread and no host memory is needed.
        A `ResidentVolumes` is shared between loaders. Batches are equal to those of streaming.
    dtype : the stores' own type (None), or float32. Readers then convert the stored values, which
        is faster where batches are used on the CPU. Floats of one-byte voxels take four times the
        memory, and four times the transfer to a device.
    shuffle : shuffle each epoch; without it, every epoch has the order of the items.

    Raises
    ------
    InputError : for too few items, for stores of different grids or types, and for resident
        volumes that do not fit in memory.
    ValueError : for targets or weights of another number of items, and for another dtype.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        weights: npt.NDArray[np.float64] | None = None,
        targets: Mapping[str, Tensor] | None = None,
        rank: int = 0,
        world: int = 1,
        threads: int = READER_THREADS,
        resident: Residence | ResidentVolumes | None = "none",
        dtype: torch.dtype | None = None,
        shuffle: bool = True,
    ) -> None:
        if weights is not None and (len(weights) != len(items) or not (weights > 0).all()):
            raise ValueError(f"expected {len(items)} weights above 0")
        if weights is not None and not shuffle:
            raise ValueError("weights need shuffle")
        self._order = BatchOrder(
            len(items), batch_size, seed, rank, world, weights, shuffle=shuffle
        )
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
        self._resident_indices = None if resident is None else resident.indices_of(items)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch of this rank."""
        return self._order.steps_per_epoch

    def indices_at(self, step: int) -> npt.NDArray[np.int64]:
        """Items of batch number `step`; int64 (B,)."""
        return self._order.indices_at(step)

    def batches_from(self, step: int) -> Generator[Batch, None, None]:
        """Batches number `step`, `step + 1`, ... without end. Close it to stop the readers.

        An exception of a reader, such as StoreCorrupt, is raised in the thread that iterates.
        """
        return self._load(self._step(s) for s in itertools.count(step))

    def ordered_batches(self) -> Generator[Batch, None, None]:
        """Batches of every item once, in order, for evaluation. The last one may be smaller."""
        indices = np.arange(len(self.items))
        starts = range(0, len(indices), self.batch_size)
        return self._load(_Step(i, indices[i : i + self.batch_size]) for i in starts)

    def _load(self, steps: Iterable[_Step]) -> Generator[Batch, None, None]:
        if self._resident is not None and self._resident.on_device:
            return self._select_on_device(steps, self._resident)
        return self._read_ahead(steps)

    def _select_on_device(
        self, steps: Iterable[_Step], resident: ResidentVolumes
    ) -> Generator[Batch, None, None]:
        """Batches of volumes that are on the device already."""
        assert self._resident_indices is not None
        for step in steps:
            selected = self._resident_indices[torch.from_numpy(step.indices.copy())]
            yield self._make_batch(step, resident.select(selected).to(self.dtype))

    def _read_ahead(self, steps: Iterable[_Step]) -> Generator[Batch, None, None]:
        """Batches that threads read ahead."""
        buffers = HostBuffers((self.batch_size, *self.grid), self.device, self.dtype)
        n_tasks = min(self.threads, self.batch_size)

        def start(pool: ThreadPoolExecutor, step: _Step) -> _PendingBatch:
            buffer = buffers.acquire()
            positions = list(enumerate(step.indices.tolist()))
            # One task per thread: submitting a task costs a good part of the time of a read.
            reads = [
                pool.submit(self._fill, buffer, positions[task :: self.threads])
                for task in range(n_tasks)
            ]
            return _PendingBatch(buffer, step, reads)

        return read_ahead(steps, start, self._finish, self.threads)

    def _fill(self, buffer: HostBuffer, positions: Sequence[tuple[int, int]]) -> None:
        """Read items; `positions` are (position in the batch, item). Runs in a reader thread."""
        buffer.wait_until_free()
        for position, index in positions:
            self._read(index, buffer.array[position])

    def _read(self, index: int, out: npt.NDArray[Any]) -> None:
        if self._resident is not None:
            assert self._resident_indices is not None
            self._resident.copy_volume(int(self._resident_indices[index]), out)
            return
        item = self.items[index]
        if self.dtype == torch.float32:
            item.store.read_floats(item.row, out)
        else:
            item.store.read(item.row, out=out)

    def _finish(self, pending: _PendingBatch) -> Batch:
        for read in pending.reads:
            read.result()
        volumes = pending.buffer.to_device(len(pending.step.indices), self.device)
        return self._make_batch(pending.step, volumes)

    def _step(self, number: int) -> _Step:
        repeats = self._order.repeats_at(number) if self.world > 1 else None
        return _Step(number, self.indices_at(number), repeats)

    def _make_batch(self, step: _Step, volumes: Tensor) -> Batch:
        items = torch.from_numpy(step.indices.copy())
        return Batch(
            volumes=volumes,
            items=items,
            seed=step_seed(self.seed, step.number),
            targets={n: copy_to_device(t[items], self.device) for n, t in self.targets.items()},
            repeats=None if step.repeats is None else torch.from_numpy(step.repeats),
        )


@dataclass(frozen=True, slots=True)
class _Step:
    number: int
    indices: npt.NDArray[np.int64]
    """Items of the batch."""
    repeats: npt.NDArray[np.int64] | None = None
    """See `Batch.repeats`."""


@dataclass(frozen=True, slots=True)
class _PendingBatch:
    buffer: HostBuffer
    step: _Step
    reads: list[Future[None]]
