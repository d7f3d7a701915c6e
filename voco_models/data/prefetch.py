"""Reading ahead: threads that begin a batch before it is asked for, and the memory they fill.

Memory of batches is used again and again: fresh memory costs more than the read that fills it,
because the kernel clears every page of it first.
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

AHEAD = 2
"""Batches being read, or read and waiting. More would not fit the processor's cache."""
READER_THREADS = max(2, min(4, len(os.sched_getaffinity(0))))
"""Reads in flight. A read is one file of 1-6 MB, so a few threads hide the latency of a disk; more
threads than cores would only alternate."""

Step = TypeVar("Step")
Pending = TypeVar("Pending")
Result = TypeVar("Result")


def read_ahead(
    plan: Iterable[Step],
    start: Callable[[ThreadPoolExecutor, Step], Pending],
    finish: Callable[[Pending], Result],
    threads: int,
) -> Generator[Result, None, None]:
    """`finish(start(pool, step))` for each step, in order; up to `AHEAD` steps are begun early.

    Both are called in the thread that iterates. An error of `finish`, and closing the generator,
    end the stream: work that has not begun is cancelled, and work that has is waited for.
    """
    remaining = iter(plan)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="voco-reader")
    try:
        pending = deque(start(pool, step) for step in itertools.islice(remaining, AHEAD))
        while pending:
            # No reference to the result is kept here: its memory is used again as soon as the
            # caller holds none.
            yield finish(pending.popleft())
            for step in itertools.islice(remaining, 1):
                pending.append(start(pool, step))
    finally:
        pool.shutdown(cancel_futures=True)


class HostBuffer:
    """Host memory of one batch: readers fill `array`, the loader sends it to the device."""

    def __init__(
        self, array: npt.NDArray[Any], pool: HostBuffers, host: Tensor | None = None
    ) -> None:
        self.array = array
        """(B, ...), of the pool's dtype, C-contiguous, 64-byte aligned."""
        self._host = torch.from_numpy(array) if host is None else host
        self._pool = pool
        self._sent: torch.Event | None = None

    def ready(self) -> None:
        """Wait until the last copy out of this memory is done. Called by reader threads."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self, count: int, device: torch.device) -> Tensor:
        """The first `count` entries as a tensor on the device; the array must not be filled again.

        On the CPU this is the memory itself: it is free again once no tensor refers to it, nor a
        view of one. On CUDA it is a copy, and the memory is free when the copy is done.
        """
        if device.type == "cpu":
            return self._host[:count]
        moved = self._host[:count].to(device, non_blocking=self._pool.pinned, copy=True)
        if self._pool.pinned:
            self._sent = torch.Event(device, blocking=True)
            self._sent.record()
        self._pool.give_back(self)
        return moved


class HostBuffers:
    """A pool of buffers. A new one is made where none is free, so the pool is as large as the
    largest number that was in use at one time.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        self.pinned = device.type == "cuda"
        self.made = 0
        """Number of buffers in the pool."""
        self._shape = shape
        self._dtype = dtype
        self._shared = device.type == "cpu"
        self._free: deque[HostBuffer] = deque()

    def take(self) -> HostBuffer:
        """A free buffer."""
        buffer = self._free.popleft() if self._free else self._allocate()
        if not self._shared:
            return buffer
        # torch.from_numpy keeps `view` alive for as long as any tensor shares its memory.
        view = buffer.array.view()
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return HostBuffer(view, self)

    def give_back(self, buffer: HostBuffer) -> None:
        """Mark a buffer as free."""
        self._free.append(buffer)

    def _allocate(self) -> HostBuffer:
        self.made += 1
        if self.pinned:
            memory = torch.empty(self._shape, dtype=self._dtype, pin_memory=True)
            return HostBuffer(memory.numpy(), self, memory)
        # NumPy asks the kernel for huge pages, `torch.empty` does not. With them, writing a batch
        # of floats takes two thirds of the time.
        dtype = torch.empty(0, dtype=self._dtype).numpy().dtype
        return HostBuffer(aligned_empty(self._shape, dtype), self)
