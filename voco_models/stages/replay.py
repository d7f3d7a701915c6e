"""The replay of a captured pretraining step: which tensor is the first that is not finite.

It needs the capture alone, not the stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.objectives import Voco2d
from voco_models.stages import recipe_options
from voco_models.stages.pretrain_plan import STAGE, build_objective
from voco_models.stages.pretrain_recipes import PretrainRecipe
from voco_models.training import (
    Capture,
    choose_device,
    load_capture,
    read_specs,
    to_plain,
)

NOTHING = "nothing: every tensor is finite"


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What a captured step gives when it is taken again."""

    step: int
    series: tuple[str, ...]
    """The series of the batch, as the store names them."""
    cause: str
    """What was not finite when the step was captured."""
    first: str
    """The first tensor that is not finite: a weight, the input, the output of a module, a loss, or
    the gradient of a parameter."""
    losses: dict[str, float]
    captured_losses: dict[str, float]
    same: bool
    """Whether all losses are equal to the bit, or not a number in both."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain JSON values. A number that is not finite is a text."""
        values: dict[str, object] = to_plain(asdict(self))
        for name in ("losses", "captured_losses"):
            values[name] = {key: repr(value) for key, value in getattr(self, name).items()}
        return values


def replay(file: str | Path, *, device: str | torch.device | None = None) -> ReplaySummary:
    """Take the step of RUN/nonfinite.pt again, up to its gradients, and look at every tensor.

    Raises InputError if the file is no capture of a pretraining.
    """
    capture = load_capture(Path(file))
    chosen_device = choose_device(device)
    objective, recipe = _rebuild(Path(file), capture)
    objective.load_state_dict(capture.objective)
    objective = objective.to(chosen_device).train()
    found = list(_non_finite_names("weight", objective.state_dict().items()))
    batch = capture.batch(chosen_device)
    with _recorded_outputs(objective, found), recipe.fit.autocast(chosen_device):
        losses = objective(batch)
    found += _non_finite_names("loss", losses.items())
    losses["loss"].backward()
    gradients = ((n, p.grad) for n, p in objective.named_parameters() if p.grad is not None)
    found += _non_finite_names("gradient of", gradients)
    values = {name: float(value.detach()) for name, value in losses.items()}
    return ReplaySummary(
        step=capture.step,
        series=tuple(capture.names),
        cause=capture.cause,
        first=found[0] if found else NOTHING,
        losses=values,
        captured_losses=capture.losses,
        same={n: repr(v) for n, v in values.items()}
        == {n: repr(v) for n, v in capture.losses.items()},
    )


def _rebuild(file: Path, capture: Capture) -> tuple[Voco2d, PretrainRecipe]:
    """The objective of the capture's run, with other weights, and its recipe."""
    provenance = capture.provenance
    if provenance.get("stage") != STAGE:
        raise InputError(
            f"{file}: expected the capture of a pretraining, got one of {provenance.get('stage')}"
        )
    recipe = recipe_options.build_recipe(PretrainRecipe, provenance["recipe"])
    return build_objective(recipe, read_specs(provenance)[0]), recipe


@contextmanager
def _recorded_outputs(objective: Voco2d, found: list[str]) -> Iterator[None]:
    """While the context is open, modules with an output that is not finite add their name."""
    with ExitStack() as hooks:
        for name, module in objective.named_modules():
            if name and not any(module.children()):
                hooks.callback(_watch(name, module, found).remove)
        yield


def _watch(name: str, module: nn.Module, found: list[str]) -> Any:
    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
        tensors = [("input of", t) for t in inputs] + [("output of", output)]
        found.extend(
            f"{kind} {name}"
            for kind, tensor in tensors
            if isinstance(tensor, Tensor) and not bool(tensor.isfinite().all())
        )

    return module.register_forward_hook(look)


def _non_finite_names(kind: str, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    """Names of the tensors that are not finite, after their kind."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(tensor.detach().isfinite().all()):
            yield f"{kind} {name}"
