"""Counts of one step: floating-point operations, and bytes that are kept for the backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

FLOP_COUNTER = "torch.utils.flop_counter.FlopCounterMode"
"""It counts convolutions, matrix products and attention, 2 operations for a multiply-add."""


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of `work`, by `FLOP_COUNTER`. Compiled modules are not seen.

    PyTorch's formula for the backward pass of a convolution ignores groups, and counts a depthwise
    one by its channels too often. So this one is replaced.
    """
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    return int(counter.get_total_flops())


def _convolution_backward_flops(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *options: Any,
    **_: Any,
) -> int:
    """As many as the forward pass for the gradient of the input, and again for the weights."""
    transposed, output_mask = options[4], options[7]
    positions = (x_shape if transposed else grad_shape)[2:]
    # A weight is (out, in / groups, ...), or (in, out / groups, ...) if transposed.
    forward = 2 * x_shape[0] * math.prod(positions) * math.prod(w_shape)
    return forward * (bool(output_mask[0]) + bool(output_mask[1]))


class SavedBytes:
    """Tensors that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.total = 0
        """Bytes of their storages. Each storage counts once."""
        # A weak reference keeps the address of a storage from being used again, not its memory.
        self._seen: set[StorageWeakRef] = set()

    def skip(self, tensor: Tensor) -> None:
        """Do not count the storage of this tensor."""
        self._seen.add(_reference(tensor))

    def add(self, tensor: Tensor) -> Tensor:
        """Count the storage of a tensor that autograd keeps. Returns the tensor."""
        reference = _reference(tensor)
        if reference not in self._seen:
            self._seen.add(reference)
            self.total += tensor.untyped_storage().nbytes()
        return tensor


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


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
