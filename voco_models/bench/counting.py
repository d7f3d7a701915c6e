"""Counts of one step: floating-point operations, and bytes that are kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

FLOP_COUNTER = "torch.utils.flop_counter.FlopCounterMode"
"""It counts convolutions, matrix products and attention, 2 operations for a multiply-add."""


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of `work`, by `FLOP_COUNTER`. Compiled modules are not seen."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


class SavedBytes:
    """Tensors that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.total = 0
        """Bytes of their storages. Each storage counts once."""
        # A weak reference keeps the address of a storage from being used again, not its memory.
        self._seen: set[StorageWeakRef] = set()

    def skip(self, tensor: Tensor) -> None:
        """Do not count the storage of this tensor."""
        self._seen.add(StorageWeakRef(tensor.untyped_storage()))

    def add(self, tensor: Tensor) -> Tensor:
        """Count the storage of a tensor that autograd keeps. Returns the tensor."""
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in self._seen:
            self._seen.add(reference)
            self.total += storage.nbytes()
        return tensor


@contextmanager
def count_saved(module: nn.Module) -> Iterator[SavedBytes]:
    """Count what autograd keeps in the block; read `total` after it.

    The parameters and buffers of `module` are not counted: they are in memory in any case.
    """
    saved = SavedBytes()
    for tensor in (*module.parameters(), *module.buffers()):
        saved.skip(tensor)
    with saved_tensors_hooks(saved.add, lambda tensor: tensor):
        yield saved
