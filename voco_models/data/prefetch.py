"""Threads that read batches ahead of the training step, and the host memory that they fill.

The memory of batches is reused. Fresh memory costs more than the read that fills it, because the
kernel clears every page of it first.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from voco_data.volumes import aligned_empty

BATCHES_AHEAD = 2
"""Batches that are being read, or wait for the caller. More would not fit the processor's cache."""
READER_THREADS = max(2, min(4, len(os.sched_getaffinity(0))))
"""Reads in flight. A read is one file of 1-6 MB, so a few threads hide the latency of a disk; more
threads than cores would only alternate."""

Step = TypeVar("Step")
Pending = TypeVar("Pending")
Result = TypeVar("Result")


def read_ahead(
    steps: Iterable[Step],
    start: Callable[[ThreadPoolExecutor, Step], Pending],
    finish: Callable[[Pending], Result],
    threads: int,
) -> Generator[Result, None, None]:
    """Yield `finish(start(pool, step))` for each step, in order.

    `start` is called up to `BATCHES_AHEAD` steps early. Both functions are called in the thread
    that iterates. The stream ends if `finish` raises or the generator is closed. Tasks that have
    not begun are then cancelled, and tasks that run are awaited.
    """
    remaining = iter(steps)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="voco-reader")
    try:
        pending = deque(start(pool, step) for step in itertools.islice(remaining, BATCHES_AHEAD))
        while pending:
            # No reference to the result is kept here, because its memory is reused as soon as the
            # caller holds none.
            yield finish(pending.popleft())
            for step in itertools.islice(remaining, 1):
                pending.append(start(pool, step))
    finally:
        pool.shutdown(cancel_futures=True)


class HostBuffer:
    """Host memory of one batch. Readers fill `array`, then the loader sends it to the device."""

    def __init__(
        self, array: npt.NDArray[Any], pool: HostBuffers, host: Tensor | None = None
    ) -> None:
        self.array = array
        """(B, ...), of the pool's dtype, C-contiguous, 64-byte aligned."""
        self._host = torch.from_numpy(array) if host is None else host
        self._pool = pool
        self._copied: torch.Event | None = None

    def wait_until_free(self) -> None:
        """Wait until the last copy from this memory to a device is done. For reader threads."""
        if self._copied is not None:
            self._copied.synchronize()

    def to_device(self, count: int, device: torch.device) -> Tensor:
        """The first `count` volumes or slices on `device`. The array must not be filled again.

        On the CPU the tensor is the memory itself, which is free again when no tensor and no view
        refers to it. On CUDA it is a copy, and the memory is free when the copy is done.
        """
        if device.type == "cpu":
            return self._host[:count]
        copy = self._host[:count].to(device, non_blocking=self._pool.pinned, copy=True)
        if self._pool.pinned:
            self._copied = torch.Event(device, blocking=True)
            self._copied.record()
        self._pool.release(self)
        return copy


class HostBuffers:
    """A pool of buffers. It allocates a new one where none is free.

    So the pool is as large as the largest number of buffers that were in use at one time.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        self.pinned = device.type == "cuda"
        self.size = 0
        """Number of buffers in the pool."""
        self._shape = shape
        self._dtype = dtype
        self._is_shared = device.type == "cpu"
        self._free: deque[HostBuffer] = deque()

    def acquire(self) -> HostBuffer:
        """Take a free buffer out of the pool."""
        buffer = self._free.popleft() if self._free else self._allocate()
        if not self._is_shared:
            return buffer
        # torch.from_numpy keeps `view` alive for as long as any tensor shares its memory.
        view = buffer.array.view()
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return HostBuffer(view, self)

    def release(self, buffer: HostBuffer) -> None:
        """Return a buffer to the pool."""
        self._free.append(buffer)

    def _allocate(self) -> HostBuffer:
        self.size += 1
        if self.pinned:
            memory = torch.empty(self._shape, dtype=self._dtype, pin_memory=True)
            return HostBuffer(memory.numpy(), self, memory)
        # NumPy asks the kernel for huge pages, `torch.empty` does not. With them, writing a batch
        # of floats takes two thirds of the time.
        dtype = torch.empty(0, dtype=self._dtype).numpy().dtype
        return HostBuffer(aligned_empty(self._shape, dtype), self)
