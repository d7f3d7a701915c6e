"""Training in float64: casts to float32 are made casts to float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_float64() -> Iterator[None]:
    """A context in which new tensors are float64, and `Tensor.float` gives float64."""
    to_float32 = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = to_float32  # type: ignore[method-assign]


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch computes with one thread, as in processes that are compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
