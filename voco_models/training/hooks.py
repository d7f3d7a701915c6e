"""Between two steps: signals, which end the training, and monitors, which observe it."""

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
from voco_models.training.train_state import TrainState

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Monitor(Protocol):
    """Observes a training run, and cannot change it: see `undisturbed`."""

    @property
    def every(self) -> int:
        """Steps from one call to the next."""

    def observe(self, state: TrainState) -> None:
        """Called after every `every`-th step, without gradients. `state` is to be read only.

        What it raises ends the training.
        """


class Interruption:
    """Within this context, the first SIGINT or SIGTERM only sets `arrived`; a second one acts.

    So a step is finished, and what is saved is a whole state. On leaving, the former handlers are
    back, and a signal that arrived is raised again for them: SIGINT becomes KeyboardInterrupt as
    usual. Outside the main thread nothing is intercepted, because Python delivers signals to the
    main thread only.
    """

    def __init__(self) -> None:
        self.arrived: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore_handlers()
        if self.arrived is not None and error is None:
            signal.raise_signal(self.arrived)

    def _record(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.arrived = number
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()


def call_monitors(monitors: Sequence[Monitor], state: TrainState) -> None:
    """Call the monitors whose turn it is after this step."""
    for monitor in monitors:
        if state.step % monitor.every == 0:
            with undisturbed(state.objective):
                monitor.observe(state)


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Run code that may use `network` and draw random numbers, without any effect on training.

    Inside, gradients are off. On leaving, also after an error, these are as they were: the
    generators of Python, NumPy and torch (CPU and CUDA); of every module its training flag, its
    buffers (the statistics of batch norm among them) and the momentum of batch norm; and which
    parameters are trained. Parameters are not copied, as they are large: raises VocoError if one
    was written to.
    """
    generators = _Generators()
    modules = [_ModuleState(module) for module in network.modules()]
    parameters = [(name, p, p._version, p.requires_grad) for name, p in network.named_parameters()]
    try:
        with torch.no_grad():
            yield
    finally:
        generators.restore()
        for module in modules:
            module.restore()
        for _, parameter, _, trained in parameters:
            parameter.requires_grad_(trained)
    for name, parameter, version, _ in parameters:
        if parameter._version != version:
            raise VocoError(f"a monitor changed the weights {name}; a monitor may only read")


class _ModuleState:
    """What a module has beside parameters and submodules, when this was made."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._training = module.training
        self._momentum = module.momentum if isinstance(module, _BatchNorm) else None
        self._buffers = [
            (name, buffer, buffer.clone()) for name, buffer in module.named_buffers(recurse=False)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Give the module these buffers, with these values, and these settings."""
        self._module.training = self._training
        if isinstance(self._module, _BatchNorm):
            self._module.momentum = self._momentum
        for name, buffer, value in self._buffers:
            buffer.copy_(value)
            setattr(self._module, name, buffer)


class _Generators:
    """States of the global generators, when this was made."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()  # noqa: NPY002
        self._torch = torch.get_rng_state()
        cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if cuda else None

    def restore(self) -> None:
        """Set the generators to these states."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
