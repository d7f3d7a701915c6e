"""The processes of one training, one for each device, as `torchrun` starts them.

All processes take the same steps; each has its part of the volumes of a step. Only the first one
writes files. Without `torchrun` there is a single process, and nothing here communicates.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as differentiable

from voco_data.errors import InputError

TIMEOUT = datetime.timedelta(minutes=30)
"""A process that waits longer for the others ends with an error. Compiling can take minutes."""
LOOPBACK = "lo"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def n_processes() -> int:
    """Number of processes that train together; 1 outside `process_group`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first_process() -> bool:
    """Whether this process writes the files of the run."""
    return process_rank() == 0


def device_number() -> int:
    """Number of this process on its machine; 0 without `torchrun`. Raises InputError if wrong."""
    return _number("LOCAL_RANK", 0)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that `torchrun` started, if it did; leave them on exit.

    Tensors on the CPU are exchanged by gloo, those on CUDA by NCCL, or also by gloo where processes
    share a device, which NCCL refuses. On a single machine, only the loopback interface is used,
    unless the environment names another one. Raises InputError for an environment that is not
    complete.
    """
    started = _number("WORLD_SIZE", 1)
    if started == 1 or dist.is_initialized():
        yield
        return
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise InputError(
            f"WORLD_SIZE is {started}, but RANK or MASTER_ADDR is missing; start the command with "
            "torchrun"
        )
    on_this_machine = _number("LOCAL_WORLD_SIZE", started)
    if on_this_machine == started:
        for variable in _INTERFACES:
            os.environ.setdefault(variable, LOOPBACK)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if on_this_machine <= torch.cuda.device_count():
            backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes, (processes * B, ...), in the order of the joined batch.

    Row j of process r of n is row j * n + r, as the loader deals them out. Differentiable: the
    gradients of all processes are added. All processes must have the same shape.
    """
    if n_processes() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of `values` of any shape over all processes. Differentiable."""
    if n_processes() == 1:
        return values
    total: Tensor = differentiable.all_reduce(values)  # type: ignore[no-untyped-call]
    return total


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of `values` of any shape over all processes. Differentiable."""
    return sum_over_processes(values) / n_processes()


def largest_of_processes(number: int) -> int:
    """The largest `number` of all processes. Waits for them, but not for devices."""
    if n_processes() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def wait_for_processes() -> None:
    """Wait until all processes are here."""
    largest_of_processes(0)


def share_of_batch(batch_size: int) -> int:
    """Volumes of a batch that each process has. Raises InputError unless all have equally many."""
    if batch_size % n_processes():
        raise InputError(
            f"recipe: batch_size {batch_size} cannot be divided among {n_processes()} processes; "
            f"set it to a multiple of {n_processes()}"
        )
    return batch_size // n_processes()


class _GatherRows(torch.autograd.Function):
    """`gather_rows`. PyTorch's own, over gloo, mixes up gradients that are not contiguous."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Gather the rows of all processes."""
        del ctx
        parts = [rows.new_empty(rows.shape) for _ in range(n_processes())]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts, dim=1).flatten(end_dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Add the gradients of all processes, and keep those of the rows of this one."""
        del ctx
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[process_rank() :: n_processes()]


def _number(variable: str, default: int) -> int:
    """A number of the environment."""
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise InputError(f"{variable}: expected a number, as torchrun sets it, got {text!r}")
    return int(text)
