"""Actions between two steps: signals end the training, and monitors observe it."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from voco_data.errors import VocoError
from voco_models.processes import alone, largest_of_processes, n_processes
from voco_models.training.train_state import TrainState

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Monitor(Protocol):
    """Observes a training run. It cannot change the run; see `preserve_training_state`."""

    @property
    def every(self) -> int:
        """Number of steps between two calls of `observe`."""

    def observe(self, state: TrainState) -> None:
        """Called after every `every`-th step, without gradients. Must only read `state`.

        It is called in every process of the training; see `is_first_process`. An exception ends the
        training.
        """


class Interruption:
    """A context that delays SIGINT and SIGTERM, so that the current step can be finished.

    The first signal only sets `signal_number`. After SIGINT, a second signal goes to the previous
    handlers: a person who presses Ctrl-C twice does not want to wait. After SIGTERM it is ignored,
    because a service manager may send it more than once, to the process and to its group, and with
    several processes too, because `torchrun` sends signals of its own. On exit, the
    previous handlers are restored, and a delayed signal is raised again for them, so SIGINT becomes
    KeyboardInterrupt as usual. Outside the main thread nothing is delayed, because Python delivers
    signals to the main thread only.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        """The delayed signal, if any."""
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous_handlers[number] = signal.signal(number, self._delay)
        return self

    def has_signal(self) -> bool:
        """Whether this or another process of the training has a signal. All must call it.

        All get the same answer. A signal that arrives meanwhile counts at the next call.
        """
        number = largest_of_processes(self.signal_number or 0)
        if number and self.signal_number is None:
            self.signal_number = number
        return number != 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore_handlers()
        if self.signal_number is not None and error is None:
            signal.raise_signal(self.signal_number)

    def _delay(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal_number = number
        if number == signal.SIGINT and n_processes() == 1:
            self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()


def call_monitors(monitors: Sequence[Monitor], state: TrainState) -> None:
    """Call the monitors that are due after this step, in every process."""
    for monitor in monitors:
        if state.step % monitor.every == 0:
            with preserve_training_state(state.objective), alone():
                monitor.observe(state)


@contextmanager
def preserve_training_state(network: nn.Module) -> Iterator[None]:
    """A context for code that uses `network` and random numbers without an effect on training.

    Gradients are off inside. On exit, also after an error, it restores the generators of Python,
    NumPy and torch (CPU and CUDA), the training flag, the buffers and the batch norm momentum of
    every module, and `requires_grad` of every parameter. Parameters are large, so they are not
    copied: it raises VocoError if one was written to.
    """
    generators = _GeneratorStates()
    modules = [_ModuleState(module) for module in network.modules()]
    parameters = [(name, p, p._version, p.requires_grad) for name, p in network.named_parameters()]
    try:
        with torch.no_grad():
            yield
    finally:
        generators.restore()
        for module in modules:
            module.restore()
        for _, parameter, _, requires_grad in parameters:
            parameter.requires_grad_(requires_grad)
    for name, parameter, version, _ in parameters:
        if parameter._version != version:
            raise VocoError(f"a monitor changed the weights {name}; a monitor may only read")


class _ModuleState:
    """A copy of a module's settings and buffers, without its parameters and submodules."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._training = module.training
        self._momentum = module.momentum if isinstance(module, _BatchNorm) else None
        self._buffers = [
            (name, buffer, buffer.clone()) for name, buffer in module.named_buffers(recurse=False)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Set the buffers and settings of the module to the copy."""
        self._module.training = self._training
        if isinstance(self._module, _BatchNorm):
            self._module.momentum = self._momentum
        for name, buffer, value in self._buffers:
            buffer.copy_(value)
            setattr(self._module, name, buffer)


class _GeneratorStates:
    """A copy of the states of the global random generators."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()  # noqa: NPY002
        self._torch = torch.get_rng_state()
        cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if cuda else None

    def restore(self) -> None:
        """Set the generators to the copied states."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
