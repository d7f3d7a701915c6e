"""Counts of one step: operations, bytes kept for the backward pass, and the peak of all tensors."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
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


def _storages(values: Any) -> list[torch.UntypedStorage]:
    """Storages of the tensors in nested values."""
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


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


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations in the block made, while these tensors live.

    Each storage counts once. Memory inside of an operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        """Bytes that live."""
        self.peak = 0
        """The largest value of `now` so far."""
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute an operation, and count the storages of its results."""
        given = {id(storage) for storage in _storages((args, kwargs))}
        results = function(*args, **(kwargs or {}))
        for storage in _storages(results):
            if id(storage) not in given:  # a view of what the operation was given
                self._add(storage)
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def forget(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)
