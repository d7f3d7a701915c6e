"""Batches of single slices, drawn from all slices of all volumes. Threads read ahead."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_models.data.items import SliceSource, choose_dtype, common_layout
from voco_models.data.prefetch import READER_THREADS, HostBuffer, HostBuffers, read_ahead
from voco_models.data.sampling import BatchOrder

SLICES_PER_TASK = 64
"""Slices that one task reads: submitting a task takes as long as reading a slice."""


@dataclass(frozen=True, slots=True)
class SliceBatch:
    """Slices of many volumes, with their origin."""

    slices: Tensor
    """Stored voxels (B, Y, X), on the device, of the loader's `dtype`."""
    items: Tensor
    """int64 (B,), on the CPU: index of each slice's volume in the loader's `volumes`."""
    indices: Tensor
    """int64 (B,), on the CPU: index of each slice in its volume."""


class SliceLoader:
    """Batches of single slices of all volumes of some stores.

    An epoch visits every slice of every volume once, except those that do not fill the last batch.
    Order, ranks, memory and `dtype` are as in `voco_models.data.loader.Loader`. Raises InputError
    for stores of different grids or types, and for fewer slices than a batch.
    """

    def __init__(
        self,
        stores: Sequence[SliceSource],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        threads: int = READER_THREADS,
        dtype: torch.dtype | None = None,
    ) -> None:
        (self._depth, *self._plane), stored = common_layout(stores)
        self.volumes = [(store, row) for store in stores for row in store.rows.tolist()]
        """Every stored volume, store by store, in row order."""
        self.device = device
        self.dtype = choose_dtype(dtype, stored)
        self.threads = threads
        self.order = BatchOrder(len(self.volumes) * self._depth, batch_size, seed, rank, world)
        self._shape = (batch_size, *self._plane)

    def batches_from(self, step: int) -> Generator[SliceBatch, None, None]:
        """Batches number `step`, `step + 1`, ... without end. Close it to stop the readers."""
        buffers = HostBuffers(self._shape, self.device, self.dtype)

        def start(pool: ThreadPoolExecutor, step: int) -> _PendingBatch:
            numbers, buffer = self.order.indices_at(step), buffers.acquire()
            offsets = range(0, len(numbers), SLICES_PER_TASK)
            reads = [pool.submit(self._fill, buffer, offset, numbers) for offset in offsets]
            return _PendingBatch(buffer, numbers, reads)

        return read_ahead(itertools.count(step), start, self._finish, self.threads)

    def _fill(self, buffer: HostBuffer, offset: int, numbers: npt.NDArray[np.int64]) -> None:
        """Read the slices of one task, from `numbers[offset]` on. Runs in a reader thread.

        Slices are numbered volume by volume.
        """
        buffer.wait_until_free()
        views = []
        for number in numbers[offset : offset + SLICES_PER_TASK].tolist():
            index, z = divmod(number, self._depth)
            store, row = self.volumes[index]
            views.append(store.view_slice(row, z))
        target = buffer.array[offset : offset + len(views)]
        # One call for all slices: threads that make many short calls contend for the interpreter.
        np.concatenate(views, out=target.reshape(-1, self._plane[1]))

    def _finish(self, pending: _PendingBatch) -> SliceBatch:
        for read in pending.reads:
            read.result()
        items, indices = np.divmod(pending.numbers, self._depth)
        return SliceBatch(
            slices=pending.buffer.to_device(len(items), self.device),
            items=torch.from_numpy(items),
            indices=torch.from_numpy(indices),
        )


@dataclass(frozen=True, slots=True)
class _PendingBatch:
    buffer: HostBuffer
    numbers: npt.NDArray[np.int64]
    reads: list[Future[None]]
