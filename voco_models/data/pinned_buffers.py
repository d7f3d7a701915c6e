"""Memory of batches on the host, used again and again.

Fresh memory costs more than the read that fills it: the kernel clears every page of it first.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_data.volumes.buffers import aligned_bytes


class HostBuffer:
    """Room for one batch: readers fill `array`, the loader sends it."""

    def __init__(
        self, array: npt.NDArray[Any], home: HostBuffers, host: Tensor | None = None
    ) -> None:
        self.array = array
        """uint8 or float32 (B, ...), C-contiguous, 64-byte aligned."""
        self._host = torch.from_numpy(array) if host is None else host
        self._home = home
        self._sent: torch.Event | None = None

    def ready(self) -> None:
        """Wait until the last copy out of this memory is over. Called by reader threads."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self, count: int, device: torch.device) -> Tensor:
        """The first `count` entries as a tensor on the device. Nothing may be read in after.

        On the CPU this is the memory itself: it is free again once nobody refers to the tensor,
        or to a view of it. On CUDA it is a copy, and the memory is free when that is over.
        """
        if device.type == "cpu":
            return self._host[:count]
        moved = self._host[:count].to(device, non_blocking=self._home.pinned, copy=True)
        if self._home.pinned:
            self._sent = torch.Event(device, blocking=True)
            self._sent.record()
        self._home.give_back(self)
        return moved


class HostBuffers:
    """Makes room where none is free. So there are as many as are in use at the busiest moment."""

    def __init__(
        self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.uint8
    ) -> None:
        self.pinned = device.type == "cuda"
        self.made = 0
        """How many there are."""
        self._shape = shape
        self._dtype = dtype
        self._lent = device.type == "cpu"
        self._free: deque[HostBuffer] = deque()

    def take(self) -> HostBuffer:
        """One that nobody uses."""
        buffer = self._free.popleft() if self._free else self._make()
        if not self._lent:
            return buffer
        # torch.from_numpy keeps `view` alive for as long as any tensor shares its memory.
        view = buffer.array.view()
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return HostBuffer(view, self)

    def give_back(self, buffer: HostBuffer) -> None:
        """It may be taken again."""
        self._free.append(buffer)

    def _make(self) -> HostBuffer:
        self.made += 1
        if self.pinned:
            memory = torch.empty(self._shape, dtype=self._dtype, pin_memory=True)
            return HostBuffer(memory.numpy(), self, memory)
        # NumPy's memory is that of `torch.empty` but for its size of page: NumPy asks the kernel
        # for large ones, and writing to a batch of floats takes two thirds of the time.
        size = math.prod(self._shape) * self._dtype.itemsize
        kind = np.uint8 if self._dtype == torch.uint8 else np.float32
        return HostBuffer(aligned_bytes(size).view(kind).reshape(self._shape), self)
