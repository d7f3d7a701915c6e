"""The processes of one training, one for each device, as `torchrun` starts them.

All processes take the same steps; each has its part of the volumes of a step. Only the first one
writes files. Without `torchrun` there is a single process, and nothing here communicates.
"""

from __future__ import annotations

import atexit
import datetime
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from voco_data.errors import InputError

log = logging.getLogger(__name__)

TIMEOUT = datetime.timedelta(minutes=30)
"""A process that waits longer for the others ends with an error. Compiling can take minutes."""
LOOPBACK = "lo"
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def n_processes() -> int:
    """Number of processes that train together; 1 before `join_processes`, and in `alone`."""
    return dist.get_world_size() if dist.is_initialized() and not _ALONE.get() else 1


def process_rank() -> int:
    """Number of this process among `n_processes`, from 0."""
    return dist.get_rank() if n_processes() > 1 else 0


def is_first_process() -> bool:
    """Whether this process writes the files of the run, also in `alone`."""
    return not dist.is_initialized() or dist.get_rank() == 0


def device_number() -> int:
    """Number of this process on its machine; 0 without `torchrun`. Raises InputError if wrong."""
    return _number("LOCAL_RANK", 0)


def join_processes(device: torch.device) -> None:
    """Join the processes that `torchrun` started, if it did, until this process ends.

    A second call has no effect, also with another device: the addresses of the first stay with
    `torchrun`.

    Tensors on the CPU are exchanged by gloo, those on CUDA by NCCL, or also by gloo where processes
    share a device, which NCCL refuses. On a single machine, only the loopback interface is used,
    unless the environment names another one. Raises InputError for an environment that is not
    complete, and for another device than that of this process.
    """
    started = _number("WORLD_SIZE", 1)
    if started == 1 or dist.is_initialized():
        return
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing or not _number("RANK", 0) < started:
        found = f"no {' and no '.join(missing)}" if missing else f"RANK {os.environ['RANK']}"
        raise InputError(
            f"expected the environment of torchrun, got WORLD_SIZE {started} and {found}; start "
            "the command with torchrun"
        )
    on_this_machine = _number("LOCAL_WORLD_SIZE", 0)
    if on_this_machine == started and LOOPBACK in dict(socket.if_nameindex()).values():
        for variable in _INTERFACES:
            os.environ.setdefault(variable, LOOPBACK)
    backend = "gloo" if device.type == "cpu" else _choose_cuda_backend(device, on_this_machine)
    dist.init_process_group(backend, timeout=TIMEOUT)
    atexit.register(dist.destroy_process_group)


@contextmanager
def alone() -> Iterator[None]:
    """A context for code that each process executes by itself, such as a probe."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _choose_cuda_backend(device: torch.device, on_this_machine: int) -> str:
    """The backend for processes on CUDA devices, of which `device` becomes the current one."""
    devices = torch.cuda.device_count()
    if device.index != device_number() % devices:
        raise InputError(
            f"device: process {device_number()} of this machine expected the device cuda, which is "
            f"cuda:{device_number() % devices} here, got {device}; give cuda, or none"
        )
    torch.cuda.set_device(device)
    if on_this_machine <= devices:
        return "cpu:gloo,cuda:nccl"
    log.warning(
        "%d processes see %d GPU: they communicate by gloo, which is slow; start one process per "
        "GPU, and let each see all GPUs",
        on_this_machine,
        devices,
    )
    return "gloo"


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes, (processes * B, ...), in the order of the joined batch.

    Row j of process r of n is row j * n + r, as the loader deals them out. Differentiable: the
    gradients of all processes are added. All processes must have the same shape.
    """
    if n_processes() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of `values` of any shape over all processes. Differentiable."""
    if n_processes() == 1:
        return values
    total: Tensor = _SumOverProcesses.apply(values)
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


class _SumOverProcesses(torch.autograd.Function):
    """`sum_over_processes`. PyTorch has it in a module that is private, and in one that goes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Add the values of all processes."""
        del ctx
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Add the gradients of all processes: each of their sums depends on these values."""
        del ctx
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


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
    if not text.isdecimal() or (variable == "WORLD_SIZE" and int(text) < 1):
        raise InputError(f"{variable}: expected a number, as torchrun sets it, got {text!r}")
    return int(text)
